"""One endpoint as an actor sees it: how many requests it may hold, and whether it is up at all."""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["answered", "busy", "late", "down", "refused"]

_START = 32  # requests in flight before anything is known of the server
_WINDOW = 64  # outcomes, at least, that a fall of the limit is based on
_GROWS_BELOW, _FALLS_ABOVE = 0.03, 0.25  # shares of tries that were turned away or late
_USED = 0.8  # of the limit, at least, or more of it would change nothing
_SLOWER = 2.0  # times the best latency from which on more in flight only wait for each other
_DEAD_AFTER = 8  # requests in a row, at least, that it did not answer: the server is down
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_LONGEST_BUSY_S = 4.0  # pause of a server that only turns away: it is there, and soon has room
_TICK_S = 0.001  # to wait where the time has just come: 0 would mean that it never comes


@dataclass(frozen=True)
class Place:
    """The right to have one request in flight at a lane's server."""

    lane: Lane
    is_second_try: bool  # a request was turned away just before

    def leave(self, outcome: Outcome, seconds: float, after_s: float | None = None) -> None:
        """Give it back; see Lane.leave."""
        self.lane.leave(self, outcome, seconds, after_s)


class Lane:
    """Adapts the number of requests in flight to what the server takes, and pauses while it is down.

    Some servers turn away a few requests at random, others when they have enough to do. A place that was turned away
    tries once more at once, so that the first kind costs nothing; turned away twice, it rests as long as an answer
    takes: refilled at once, it would be turned away a dozen times before the next answer comes.

    The limit grows by one for every answer until tries fail, and then by one per round, while answers take no longer
    than before and the limit is made use of. It falls to what was taken: of a window of tries, to the share that did
    not fail. A server that answers nothing is probed by one request after pauses that double.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = float(min(most, _START))
        self.out = 0
        self._most, self._clock = most, clock
        self._failed: list[bool] = []  # of tries since the last look: turned away twice or late, or answered
        self._searching = self._grows = True
        self._latency = self._best = 0.0
        self._unanswered, self._pause_s = 0, _FIRST_PAUSE_S
        self._paused_until = self._down_since = 0.0
        self._second_tries = 0  # to come
        self._resting: list[float] = []  # when places that were turned away may be used again

    @property
    def is_down(self) -> bool:
        return self._unanswered >= max(_DEAD_AFTER, self.limit)

    @property
    def down_s(self) -> float:
        """Seconds since the first of the requests that it is down for; 0 while one is out that it may yet answer."""
        return self._clock() - self._down_since if self.is_down and not self.out else 0.0

    @property
    def wait_s(self) -> float:
        """Seconds after which there may be room though no request comes back; 0 where there will not be."""
        now = self._clock()
        if now < self._paused_until:
            return self._paused_until - now
        return max(_TICK_S, self._resting[0] - now) if self._resting else 0.0

    @property
    def room(self) -> int:
        """Requests that may go out now."""
        now = self._clock()
        if now < self._paused_until:
            return 0
        while self._resting and self._resting[0] <= now:
            heapq.heappop(self._resting)
        return max(0, (1 if self.is_down else int(self.limit)) - self.out - len(self._resting))

    def enter(self) -> Place:
        """Take a place where there is room."""
        self.out += 1
        is_second_try = self._second_tries > 0
        self._second_tries -= is_second_try
        return Place(self, is_second_try)

    def give_back(self, place: Place) -> None:
        """Take a place as never used."""
        self.out -= 1
        self._second_tries += place.is_second_try

    def leave(self, place: Place, outcome: Outcome, seconds: float, after_s: float | None = None) -> None:
        """Take a place back.

        Args:
            place: what `enter` gave.
            outcome: 'answered'; 'busy' when the server turned it away; 'late' when it took too long; 'down' when it
                failed or was not there; 'refused' when it said no to this request.
            seconds: it took.
            after_s: the server asked to wait so long.
        """
        self.out -= 1
        if outcome in ("answered", "refused"):
            self._unanswered, self._pause_s = 0, _FIRST_PAUSE_S
        else:
            self._not_answered(_LONGEST_BUSY_S if outcome == "busy" else _LONGEST_PAUSE_S)
        if outcome == "busy" and after_s is None and not place.is_second_try:
            self._second_tries += 1
            return
        if outcome == "busy":
            rest_s = self._latency - seconds if after_s is None else min(after_s, _LONGEST_PAUSE_S)
            heapq.heappush(self._resting, self._clock() + rest_s)
        if outcome in ("answered", "busy", "late"):
            self._adapt(outcome != "answered", seconds)

    def _not_answered(self, longest_s: float) -> None:
        if not self._unanswered:
            self._down_since = self._clock()
        self._unanswered += 1
        if self.is_down and self._clock() >= self._paused_until:
            # What was sent before the pause says nothing new. Actors that were cut off together must not all come back
            # together.
            self._pause_s = min(longest_s, self._pause_s)
            self.pause(self._pause_s * random.uniform(0.8, 1.2))
            self._pause_s *= 2

    def pause(self, seconds: float) -> None:
        """Have no room for so long."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _adapt(self, failed: bool, seconds: float) -> None:
        self._failed.append(failed)
        if not failed:
            self._latency = seconds if not self._latency else 0.9 * self._latency + 0.1 * seconds
            self._best = min(self._best or self._latency, self._latency)
        if len(self._failed) >= max(_WINDOW, 2 * self.limit):
            share = sum(self._failed) / len(self._failed)
            self._grows = share <= _GROWS_BELOW
            if share > _FALLS_ABOVE:
                self.limit = max(1.0, self.limit * (1 - share))
            elif not self._grows:
                self.limit = max(1.0, self.limit - 1)
            self._searching &= self._grows
            self._failed.clear()
        used = self.out + len(self._resting) + 1
        if not failed and self._grows and used >= _USED * self.limit and self._latency <= _SLOWER * self._best:
            self.limit = min(float(self._most), self.limit + (1 if self._searching else 1 / self.limit))
