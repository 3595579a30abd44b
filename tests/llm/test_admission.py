"""The asyncio queues of the API engine."""

import asyncio
import time

import pytest

from pipeline.llm.engines.admission import Admission, GroupCommit


def test_every_request_is_written_down_before_it_goes():
    """Noted afterwards, a kill in between would hide what was paid for."""
    noted: list[int] = []
    admission = Admission[int](3, noted.extend)
    out = most = 0

    async def ask(number: int) -> None:
        nonlocal out, most
        await admission.enter(number)
        assert number in noted
        out += 1
        most = max(most, out)
        await asyncio.sleep(0.01)
        out -= 1
        admission.leave()

    async def run() -> None:
        await asyncio.gather(*(ask(number) for number in range(10)))

    asyncio.run(run())
    assert most == 3
    assert sorted(noted) == list(range(10))


def test_a_ledger_that_cannot_be_written_stops_the_request_and_frees_its_slot():
    def refuse(requests: list[int]) -> None:
        raise OSError("disk full")

    async def run() -> list[BaseException | None]:
        admission = Admission[int](1, refuse)
        return await asyncio.gather(*(admission.enter(number) for number in range(3)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(run())] == ["disk full"] * 3


def test_commit_never_waits_for_the_slowest():
    written: list[tuple[float, list[str]]] = []
    start = time.monotonic()
    commits = GroupCommit[str](0.05, 10, lambda items: written.append((time.monotonic() - start, items)))

    async def answer(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await commits.add(name)

    async def run() -> None:
        await asyncio.gather(answer("quick", 0), answer("quick too", 0.01), answer("slow", 0.5))

    asyncio.run(run())
    assert [items for _, items in written] == [["quick", "quick too"], ["slow"]]
    assert written[0][0] < 0.3


def test_commit_goes_at_once_when_enough_wait():
    """What a kill can lose stays as small as what may be in flight."""
    groups: list[list[int]] = []

    async def run() -> None:
        commits = GroupCommit[int](60, 2, groups.append)
        await asyncio.wait_for(asyncio.gather(*(commits.add(number) for number in range(2))), 5)

    asyncio.run(run())
    assert groups == [[0, 1]]


def test_an_answer_that_cannot_be_stored_is_not_reported_as_stored():
    def refuse(items: list[int]) -> None:
        raise OSError("disk full")

    async def run() -> None:
        await GroupCommit[int](0.01, 10, refuse).add(1)

    with pytest.raises(OSError, match="disk full"):
        asyncio.run(run())
