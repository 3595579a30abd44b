"""Two queues of an asyncio actor: requests wait for a slot and are written down before they go; answers are stored in
groups. Knows neither HTTP nor Ray.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

_GATHER_S = 0.03  # requests that become ready within it share one file of the ledger


class Admission(Generic[T]):
    """Lets at most `limit` requests be out at a time; `record` is told of each just before."""

    def __init__(self, limit: int, record: Callable[[list[T]], None]) -> None:
        self._free = limit
        self._record = record
        self._queue: deque[tuple[T, asyncio.Future[None]]] = deque()
        self._left = asyncio.Event()
        self._clerk: asyncio.Task[None] | None = None

    async def enter(self, request: T) -> None:
        """Return once the request may go out. Raises what `record` raises."""
        admitted = asyncio.get_running_loop().create_future()
        self._queue.append((request, admitted))
        if self._clerk is None or self._clerk.done():
            self._clerk = asyncio.create_task(self._admit())
        await admitted

    def leave(self) -> None:
        """Give the slot back."""
        self._free += 1
        self._left.set()

    async def _admit(self) -> None:
        while self._queue:
            while self._free == 0:
                self._left.clear()
                await self._left.wait()
            await asyncio.sleep(_GATHER_S)
            wave = [self._queue.popleft() for _ in range(min(self._free, len(self._queue)))]
            self._free -= len(wave)
            error = await _in_thread(self._record, [request for request, _ in wave])
            if error is not None:
                self._free += len(wave)
            _settle([admitted for _, admitted in wave], error)


class GroupCommit(Generic[T]):
    """Stores what has come in at least every `interval_s` seconds, and at once when `limit` items wait.

    No item waits for a slower one that has not come in yet.
    """

    def __init__(self, interval_s: float, limit: int, write: Callable[[list[T]], None]) -> None:
        self._interval_s, self._limit, self._write = interval_s, limit, write
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._full = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    async def add(self, item: T) -> None:
        """Return once the item is stored. Raises what `write` raises."""
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((item, stored))
        if len(self._waiting) >= self._limit:
            self._full.set()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._commit())
        await stored

    async def _commit(self) -> None:
        while self._waiting:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._interval_s)
            self._full.clear()
            group, self._waiting = self._waiting, []
            error = await _in_thread(self._write, [item for item, _ in group])
            _settle([stored for _, stored in group], error)


async def _in_thread(act: Callable[[list[T]], None], items: list[T]) -> Exception | None:
    """Run a blocking write beside the event loop; its failure belongs to those who wait for it."""
    try:
        await asyncio.to_thread(act, items)
    except Exception as error:
        return error
    return None


def _settle(waiting: list[asyncio.Future[None]], error: Exception | None) -> None:
    for future in waiting:
        if future.done():  # its caller was cancelled
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
