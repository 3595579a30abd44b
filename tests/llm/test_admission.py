"""The asyncio queues of the API engine."""

import asyncio
import time

import pytest

from pipeline.llm.engines.admission import Admission, Closed, GroupCommit
from pipeline.llm.engines.gate import Admitted
from pipeline.llm.engines.lane import Lane, Place


async def let_all(requests: list[int]) -> Admitted:
    return Admitted(len(requests))


def test_every_request_is_written_down_before_it_goes():
    """Noted afterwards, a kill in between would hide what was paid for."""
    noted: list[int] = []
    lane = Lane(3)
    admission = Admission[int]([lane], let_all, noted.extend, 60)
    out = most = 0

    async def ask(number: int) -> None:
        nonlocal out, most
        taken = await admission.enter(number)
        assert number in noted
        out += 1
        most = max(most, out)
        await asyncio.sleep(0.01)
        out -= 1
        taken.leave("answered", 0.01)
        admission.left()

    async def run() -> None:
        await asyncio.gather(*(ask(number) for number in range(10)))

    asyncio.run(run())
    assert most == 3
    assert sorted(noted) == list(range(10)) and lane.out == 0


def test_a_request_is_written_down_before_its_place_is_free():
    """A place that waits for the ledger is a place that the server offers in vain."""
    noted: list[int] = []
    lane = Lane(2)
    admission = Admission[int]([lane], let_all, noted.extend, 60)

    async def run() -> None:
        asked = [asyncio.create_task(admission.enter(number)) for number in range(4)]
        places = await asyncio.gather(*asked[:2])
        async with asyncio.timeout(5):
            while len(noted) < 3:
                await asyncio.sleep(0.01)
        assert noted == [0, 1, 2] and not asked[2].done(), "half of what may be in flight is ahead, and not more"
        places[0].leave("answered", 0.01)
        admission.left()
        await asyncio.sleep(0)
        assert asked[2].done()
        places[1].leave("answered", 0.01)
        admission.left()
        await asked[3]

    asyncio.run(run())


def test_a_request_that_goes_out_again_waits_for_no_newer_one():
    """Behind all that its actor holds, it would keep its block from being finished, and be the last of the run."""
    noted: list[int] = []
    admitted = asyncio.Event()

    async def slowly(requests: list[int]) -> Admitted:
        await admitted.wait()
        return Admitted(1)

    async def run() -> None:
        admission = Admission[int]([Lane(1)], slowly, noted.extend, 60, ahead=False)
        asked = [asyncio.create_task(admission.enter(number)) for number in range(3)]
        await asyncio.sleep(0)
        asked.append(asyncio.create_task(admission.enter(3, again=True)))
        await asyncio.sleep(0)
        admitted.set()
        for number in (0, 3, 1, 2):
            (await asked[number]).leave("answered", 0.01)
            admission.left()

    asyncio.run(asyncio.wait_for(run(), 5))
    assert noted == [0, 3, 1, 2], "the first was being admitted when it came"


def test_nothing_is_ahead_of_a_gate_that_may_close():
    """What is ahead would go out after the money is spent."""
    noted: list[int] = []

    async def run() -> None:
        admission = Admission[int]([Lane(2)], let_all, noted.extend, 60, ahead=False)
        asked = [asyncio.create_task(admission.enter(number)) for number in range(4)]
        await asyncio.gather(*asked[:2])
        await asyncio.sleep(0.1)
        for task in asked:
            task.cancel()

    asyncio.run(run())
    assert noted == [0, 1]


def test_a_request_that_is_given_up_keeps_no_place():
    lane = Lane(1)
    admission = Admission[int]([lane], let_all, lambda requests: None, 60)

    async def run() -> None:
        first = await admission.enter(1)
        waiting = asyncio.create_task(admission.enter(2))
        await asyncio.sleep(0.05)
        first.leave("answered", 0.01)
        admission.left()  # hands its place to the second, which is cancelled before it has taken it
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(admission.enter(3), 5)

    asyncio.run(run())
    assert lane.out == 1


def test_a_gate_that_is_gone_is_an_error_of_the_requests_that_ask_it():
    """They would wait for ever."""

    async def gone(requests: list[int]) -> Admitted:
        raise ConnectionError("the actor died")

    async def run() -> list[object]:
        admission = Admission[int]([Lane(8)], gone, lambda requests: None, 60)
        return await asyncio.gather(*(admission.enter(number) for number in range(3)), return_exceptions=True)

    found = asyncio.run(asyncio.wait_for(run(), 5))
    assert [str(each) for each in found] == ["the actor died"] * 3


def test_a_ledger_that_cannot_be_written_stops_the_request_and_frees_its_place():
    def refuse(requests: list[int]) -> None:
        raise OSError("disk full")

    lane = Lane(1)

    async def run() -> list[BaseException | None]:
        admission = Admission[int]([lane], let_all, refuse, 60)
        return await asyncio.gather(*(admission.enter(number) for number in range(3)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(run())] == ["disk full"] * 3
    assert lane.out == 0


def test_closed_gate_ends_the_waiting_and_those_let_out_before_it_go():
    """A request left in the queue of a closed gate would keep its actor, and the run, for ever."""

    async def two(requests: list[int]) -> Admitted:
        return Admitted(2, closed="the money is spent")

    async def run() -> list[object]:
        admission = Admission[int]([Lane(8)], two, lambda requests: None, 60)
        return await asyncio.gather(*(admission.enter(number) for number in range(5)), return_exceptions=True)

    found = asyncio.run(asyncio.wait_for(run(), 5))
    assert [isinstance(each, Place) for each in found] == [True, True, False, False, False]
    assert all(isinstance(each, Closed) and "money" in str(each) for each in found[2:])


def test_requests_wait_as_long_as_the_gate_says():
    asked: list[float] = []

    async def later(requests: list[int]) -> Admitted:
        asked.append(time.monotonic())
        return Admitted(len(requests)) if len(asked) > 1 else Admitted(0, wait_s=0.2)

    async def run() -> None:
        await Admission[int]([Lane(8)], later, lambda requests: None, 60).enter(1)

    asyncio.run(asyncio.wait_for(run(), 5))
    assert asked[1] - asked[0] >= 0.2


def test_server_that_stays_down_fails_what_waits_for_it():
    lane = Lane(8)

    async def run() -> None:
        admission = Admission[int]([lane], let_all, lambda requests: None, 0.5)
        while True:
            (await admission.enter(1)).leave("down", 0.01)
            admission.left()

    with pytest.raises(Closed, match="down"):
        asyncio.run(asyncio.wait_for(run(), 20))


def test_those_that_come_to_a_dead_server_wait_for_its_next_probe():
    """Failed at once, all requests of a run would be gone within seconds."""
    lane = Lane(4)

    async def run() -> float:
        admission = Admission[int]([lane], let_all, lambda requests: None, 0.2)
        with pytest.raises(Closed):
            while True:
                (await admission.enter(1)).leave("down", 0.01)
                admission.left()
        began = time.monotonic()
        place = await admission.enter(2)
        place.leave("answered", 0.01)
        return time.monotonic() - began

    assert asyncio.run(asyncio.wait_for(run(), 20)) > 0.1
    assert not lane.is_down


def test_endpoint_that_is_down_is_passed_over():
    dead, alive = Lane(4), Lane(4)
    counts = {id(dead): 0, id(alive): 0}

    async def run() -> None:
        admission = Admission[int]([dead, alive], let_all, lambda requests: None, 60)

        async def ask(number: int) -> None:
            place = await admission.enter(number)
            counts[id(place.lane)] += 1
            await asyncio.sleep(0.001)
            place.leave("down" if place.lane is dead else "answered", 0.001)
            admission.left()

        await asyncio.gather(*(ask(number) for number in range(200)))

    asyncio.run(asyncio.wait_for(run(), 10))
    assert counts[id(dead)] < 20 and counts[id(alive)] > 180


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
