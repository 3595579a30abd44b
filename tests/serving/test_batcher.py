"""The queue before a model: what could lose, swap or starve a request."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from serving.batcher import Batcher


class Recorder:
    """Doubles numbers, and remembers the batches; waits until it is let go on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.go_on.wait(10)
        self.batches.append(list(items))
        if 13 in items:
            raise ValueError("thirteen")
        return [2 * item for item in items]


def run(work: Recorder, budget: int, scenario):
    async def main():
        return await scenario(Batcher(work, lambda item: item, budget))

    return asyncio.run(main())


def test_what_waits_goes_together_in_order_and_within_the_budget():
    work = Recorder()

    async def scenario(batcher):
        work.go_on.clear()
        asked = [asyncio.create_task(batcher.submit(n)) for n in (1, 4, 5, 2, 9, 30, 1)]
        await asyncio.sleep(0.1)
        work.go_on.set()
        return await asyncio.gather(*asked)

    assert run(work, 10, scenario) == [2, 8, 10, 4, 18, 60, 2]
    assert work.batches == [[1, 4, 5], [2], [9], [30], [1]]


def test_a_bad_request_fails_alone():
    async def scenario(batcher):
        return await asyncio.gather(*(batcher.submit(n) for n in (1, 13, 2)), return_exceptions=True)

    first, bad, last = run(Recorder(), 100, scenario)
    assert (first, last) == (2, 4) and isinstance(bad, ValueError)


def test_work_of_a_client_that_has_gone_is_not_done():
    work = Recorder()

    async def scenario(batcher):
        work.go_on.clear()
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.05)
        gone, last = (asyncio.create_task(batcher.submit(n)) for n in (2, 3))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0)
        work.go_on.set()
        return await asyncio.gather(first, last)

    assert run(work, 100, scenario) == [2, 6]
    assert work.batches == [[1], [3]]


def test_it_goes_on_after_an_error_and_after_a_pause():
    async def scenario(batcher):
        with pytest.raises(ValueError):
            await batcher.submit(13)
        await asyncio.sleep(0.05)
        return await batcher.submit(4)

    assert run(Recorder(), 100, scenario) == 8
