"""Two queues of an asyncio actor: requests wait for a place and are written down before they go; answers are stored in
groups. Knows neither HTTP nor Ray.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from pipeline.llm.engines.gate import Admitted
from pipeline.llm.engines.lane import Lane

T = TypeVar("T")


class Closed(Exception):
    """No further request will go out, and why."""


class Admission(Generic[T]):
    """Lets requests out when a lane has room and the gate lets them; `record` is told of each just before.

    What gets ready while others are being written down is written down together.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        admit: Callable[[list[T]], Awaitable[Admitted]],
        record: Callable[[list[T]], None],
        down_s: float,
    ) -> None:
        self._lanes, self._admit, self._record, self._down_s = lanes, admit, record, down_s
        self._queue: deque[tuple[T, asyncio.Future[Lane]]] = deque()
        self._changed = asyncio.Event()
        self._clerk: asyncio.Task[None] | None = None

    async def enter(self, request: T) -> Lane:
        """Return the lane to take once the request may go out; tell `left` when it has come back.

        Raises Closed when it never will, and what `record` raises.
        """
        admitted = asyncio.get_running_loop().create_future()
        self._queue.append((request, admitted))
        if self._clerk is None or self._clerk.done():
            self._clerk = asyncio.create_task(self._serve())
        lane: Lane = await admitted
        return lane

    def left(self) -> None:
        """A lane has room again."""
        self._changed.set()

    async def _serve(self) -> None:
        while self._queue:
            self._changed.clear()
            room = sum(lane.room for lane in self._lanes)
            if room:
                await self._let_out(room)
            elif all(lane.down_s > self._down_s for lane in self._lanes):
                self._close("the server is down: it has not answered for so long")
            else:
                await self._until_changed(min((lane.wait_s for lane in self._lanes if lane.wait_s), default=None))

    async def _let_out(self, room: int) -> None:
        waiting = [request for request, _ in list(self._queue)[:room]]
        admitted = await self._admit(waiting)
        wave = [self._queue.popleft() for _ in range(admitted.count)]
        lanes = [self._taken() for _ in wave]
        error = await _in_thread(self._record, [request for request, _ in wave]) if wave else None
        if error is not None:
            for lane in lanes:
                lane.out -= 1
        for (_, future), lane in zip(wave, lanes, strict=True):
            if future.done():  # its caller was cancelled, and will not give the place back
                lane.out -= 1
        _settle([future for _, future in wave], lanes, error)
        if admitted.closed:
            self._close(admitted.closed)
        elif admitted.wait_s:
            await asyncio.sleep(admitted.wait_s)

    def _taken(self) -> Lane:
        lane = max(self._lanes, key=lambda each: each.room)
        lane.enter()
        return lane

    def _close(self, reason: str) -> None:
        futures = [future for _, future in self._queue]
        self._queue.clear()
        _settle(futures, [self._lanes[0]] * len(futures), Closed(reason))

    async def _until_changed(self, at_most_s: float | None) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), at_most_s)


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
            _settle([stored for _, stored in group], [None] * len(group), error)


async def _in_thread(act: Callable[[list[T]], None], items: list[T]) -> Exception | None:
    """Run a blocking write beside the event loop; its failure belongs to those who wait for it."""
    try:
        await asyncio.to_thread(act, items)
    except Exception as error:
        return error
    return None


R = TypeVar("R")


def _settle(waiting: Sequence[asyncio.Future[R]], results: Sequence[R], error: Exception | None) -> None:
    for future, result in zip(waiting, results, strict=True):
        if future.done():  # its caller was cancelled
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
