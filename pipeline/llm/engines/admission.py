"""Two queues of an asyncio actor: requests wait for a place and are written down before they go; answers are stored in
groups. Knows neither HTTP nor Ray.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from pipeline.llm.engines.gate import Admitted
from pipeline.llm.engines.lane import Lane, Place

T = TypeVar("T")
_LONGEST_WAIT_S = 1.0
_Waiting = tuple[T, "asyncio.Future[Place]"]


class Closed(Exception):
    """No further request will go out, and why."""


class Admission(Generic[T]):
    """Lets requests out when the gate admits them and a lane has room; `record` is told of each before.

    Some are admitted and written down ahead of the places to come, so that no place waits for the writing: half of what
    may be in flight, unless `ahead` is off, since they go out also when the gate has closed meanwhile. What gets ready
    while others are being written down is written down together.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        admit: Callable[[list[T]], Awaitable[Admitted]],
        record: Callable[[list[T]], None],
        down_s: float,
        refusing_s: float = math.inf,
        ahead: bool = True,
    ) -> None:
        self._lanes, self._admit, self._record, self._ahead = lanes, admit, record, ahead
        self._down_s, self._refusing_s = down_s, refusing_s
        self._again: deque[_Waiting[T]] = deque()  # have been out, and go before those of the queue
        self._queue: deque[_Waiting[T]] = deque()
        self._written: deque[_Waiting[T]] = deque()  # admitted and written down, with no place yet
        self._changed = asyncio.Event()
        self._came_back = False  # a request, since requests were last given up
        self._clerk: asyncio.Task[None] | None = None

    async def enter(self, request: T, again: bool = False) -> Place:
        """Return a place once the request may go out; tell `left` when it has come back and left the place.

        One that goes out `again` is ahead of those that have not been out: they have waited less.

        Raises Closed when it never will, and what `admit` and `record` raise.
        """
        place: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        (self._again if again else self._queue).append((request, place))
        self._changed.set()
        if self._clerk is None or self._clerk.done():
            self._clerk = asyncio.create_task(self._serve())
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                given = place.result()  # in the very moment of the cancellation
                given.lane.give_back(given)
                self.left()
            raise

    def left(self) -> None:
        """A lane has room again."""
        self._hand_out()
        self._came_back = True
        self._changed.set()

    async def _serve(self) -> None:
        while self._again or self._queue or self._written:
            self._changed.clear()
            self._hand_out()
            room = sum(lane.room for lane in self._lanes)
            ahead = sum(int(lane.limit) for lane in self._lanes if not lane.is_down) // 2 if self._ahead else 0
            wanted = room + ahead - len(self._written)
            if (
                (self._again or self._queue) and wanted > 0 and 2 * wanted >= ahead
            ):  # few at a time would keep the clerk writing
                await self._write_down(wanted)
            elif not room and self._came_back and (reason := self._given_up()):
                # Those that come later wait for the next probe: failed at once, they would be gone within seconds.
                self._came_back = False
                self._close(reason, self._again, self._queue, self._written)
            elif self._again or self._queue or self._written:
                await self._until_changed()

    def _given_up(self) -> str:
        """Why nothing is to be expected of the servers; empty where something is."""
        if all(lane.down_s > self._down_s for lane in self._lanes):
            return f"the server is down: it has answered nothing for {self._down_s:g} s (llm.down_s)"
        if all(lane.refusing_s > self._refusing_s for lane in self._lanes):
            return f"the server has turned everything away for {self._refusing_s:g} s (llm.deadline_s)"
        return ""

    def _hand_out(self) -> None:
        """Places to those that are written down, as far as there are any."""
        while self._written and (lane := max(self._lanes, key=lambda each: each.room)).room:
            _, place = self._written.popleft()
            if not place.done():  # its caller was cancelled
                place.set_result(lane.enter())

    async def _write_down(self, most: int) -> None:
        again = min(most, len(self._again))
        first = [self._again.popleft() for _ in range(again)]
        first += [self._queue.popleft() for _ in range(min(most - again, len(self._queue)))]
        try:
            admitted = await self._admit([request for request, _ in first])
        except Exception as unanswered:
            self._again.extendleft(reversed(first))
            self._fail(unanswered, self._again)
            self._fail(unanswered, self._queue)
            return
        wave = deque(first[: admitted.count])
        self._again.extendleft(reversed(first[admitted.count :]))  # in front of both
        error = await _in_thread(self._record, [request for request, _ in wave]) if wave else None
        if error is None:
            self._written += wave
            self._hand_out()
        else:
            self._fail(error, wave)
        if admitted.closed:
            self._close(admitted.closed, self._again, self._queue)
        elif admitted.wait_s:
            await asyncio.sleep(admitted.wait_s)

    def _close(self, reason: str, *queues: deque[_Waiting[T]]) -> None:
        for queue in queues:
            self._fail(Closed(reason), queue)

    def _fail(self, error: Exception, queue: deque[_Waiting[T]]) -> None:
        places = [place for _, place in queue]
        queue.clear()
        _settle(places, error)

    async def _until_changed(self) -> None:
        """Until a request comes, or comes back, or a lane may have room again."""
        waits = [lane.wait_s for lane in self._lanes if lane.wait_s]
        with suppress(TimeoutError):
            # Not for ever: time has passed since there was no room.
            await asyncio.wait_for(self._changed.wait(), min([_LONGEST_WAIT_S, *waits]))


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


def _settle(waiting: Sequence[asyncio.Future[Any]], error: Exception | None) -> None:
    for future in waiting:
        if future.done():  # its caller was cancelled
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
