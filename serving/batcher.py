"""Put requests that wait at the same time into one call of a model. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Requests wait only while the call before them runs: an idle model starts at once, a busy one gets large batches.

    Batches are filled in the order in which requests came; those whose client has gone meanwhile are left out. A batch
    that fails is tried again request by request, so that a bad one harms no other.

    Args:
        work: items -> their results in the same order; runs in a thread, one call at a time.
        cost: of an item, such as its tokens.
        budget: of the items of a call; a single item may have more.
        watch: is entered around every call with its number of items.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        cost: Callable[[Item], int],
        budget: int,
        watch: Callable[[int], AbstractContextManager[None]] = lambda items: nullcontext(),
    ) -> None:
        self._work, self._cost, self._budget, self._watch = work, cost, budget, watch
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._thread: Executor = ThreadPoolExecutor(1)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def submit(self, item: Item) -> Result:
        """The item's result; raises what `work` raised for it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while batch := self._next():
            await self._answer(batch)

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        spent = 0
        while self._waiting:
            item, future = self._waiting[0]
            cost = 0 if future.done() else self._cost(item)
            if batch and spent + cost > self._budget:
                break
            self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
                spent += cost
        return batch

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        items = [item for item, _ in batch]
        try:
            with self._watch(len(items)):
                results = await asyncio.get_running_loop().run_in_executor(self._thread, self._work, items)
        except Exception as error:  # whatever the model raises belongs to a request
            if len(batch) == 1:
                _settle(batch[0][1], error)
            else:
                for each in batch:
                    await self._answer([each])
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)


def _settle(future: asyncio.Future[Result], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
