"""One endpoint as an actor sees it: how many requests it may hold, and whether it is up at all."""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from typing import Literal

Outcome = Literal["answered", "busy", "down", "refused"]

_START = 32  # requests in flight before anything is known of the server
_WINDOW = 64  # outcomes, at least, that a fall of the limit is based on
# Shares turned away. Some servers turn away a few at random; only more of them means that there are too many.
_GROWS_BELOW, _FALLS_ABOVE = 0.12, 0.25
_USED = 0.8  # of the limit, at least, or more of it would change nothing
_SLOWER = 2.0  # times the best latency from which on more in flight only wait for each other
_DEAD_AFTER = 8  # failures in a row, at least, that mean that the server is down
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_TICK_S = 0.001  # to wait where the time has just come: 0 would mean that it never comes


class Lane:
    """Adapts the number of requests in flight to what the server takes, and pauses while it is down.

    The limit grows by one for every answer until the server turns requests away, and then by one per round, while
    answers take no longer than before and the limit is made use of. It falls to what was taken: of a window of
    outcomes, to the share that was not turned away. A dead server is probed by one request after pauses that double.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = float(min(most, _START))
        self.out = 0
        self._most, self._clock = most, clock
        self._outcomes: list[bool] = []  # turned away or not, since the last look
        self._searching = self._grows = True
        self._latency = self._best = 0.0
        self._failures, self._pause_s = 0, _FIRST_PAUSE_S
        self._paused_until = self._down_since = 0.0
        self._resting: list[float] = []  # when places that were turned away may be used again

    @property
    def is_down(self) -> bool:
        return self._failures >= max(_DEAD_AFTER, self.limit)

    @property
    def down_s(self) -> float:
        """Seconds since the first of the failures that it is down for."""
        return self._clock() - self._down_since if self.is_down else 0.0

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

    def enter(self) -> None:
        self.out += 1

    def leave(self, outcome: Outcome, seconds: float, after_s: float | None = None) -> None:
        """Give the place back.

        Args:
            outcome: 'answered'; 'busy' when the server turned it away or took too long; 'down' when it failed or was
                not there; 'refused' when it said no to this request.
            seconds: it took.
            after_s: the server asked to wait so long.
        """
        self.out -= 1
        if outcome == "busy":
            # A place that was turned away rests as long as an answer takes: refilled at once, it would be turned away
            # a dozen times before the next answer comes.
            rest_s = self._latency - seconds if after_s is None else min(after_s, _LONGEST_PAUSE_S)
            heapq.heappush(self._resting, self._clock() + rest_s)
        if outcome == "down":
            self._failed()
        else:
            self._failures, self._pause_s = 0, _FIRST_PAUSE_S
        if outcome in ("answered", "busy"):
            self._adapt(outcome == "busy", seconds)

    def _failed(self) -> None:
        if not self._failures:
            self._down_since = self._clock()
        self._failures += 1
        if self.is_down and self._clock() >= self._paused_until:
            # What was sent before the pause says nothing new. Actors that were cut off together must not all come back
            # together.
            self.pause(self._pause_s * random.uniform(0.8, 1.2))
            self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)

    def pause(self, seconds: float) -> None:
        """Have no room for so long."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _adapt(self, turned_away: bool, seconds: float) -> None:
        self._outcomes.append(turned_away)
        if not turned_away:
            self._latency = seconds if not self._latency else 0.9 * self._latency + 0.1 * seconds
            self._best = min(self._best or self._latency, self._latency)
        if len(self._outcomes) >= max(_WINDOW, 2 * self.limit):
            share = sum(self._outcomes) / len(self._outcomes)
            self._grows = share <= _GROWS_BELOW
            if share > _FALLS_ABOVE:
                self.limit = max(1.0, self.limit * (1 - share))
            elif not self._grows:
                self.limit = max(1.0, self.limit - 1)
            self._searching &= self._grows
            self._outcomes.clear()
        used = self.out + len(self._resting) + 1
        if not turned_away and self._grows and used >= _USED * self.limit and self._latency <= _SLOWER * self._best:
            self.limit = min(float(self._most), self.limit + (1 if self._searching else 1 / self.limit))
