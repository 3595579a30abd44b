"""One endpoint as an actor sees it: how many requests it may hold, and whether it is up at all."""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["answered", "busy", "late", "down", "refused"]

_START = 32  # requests in flight before anything is known of the server
_WINDOW = 64  # tries, at least, that a change of the limit is based on
# Shares of tries. Between the first two the limit may be right: some servers turn away, or lose, a few at random.
_GROWS_BELOW, _FALLS_ABOVE, _COLLAPSES_ABOVE = 0.03, 0.12, 0.25
_USED = 0.8  # of the limit, at least, or more of it would change nothing
_SLOWER = 2.0  # times the best latency from which on more in flight only wait for each other
_DEAD_AFTER = 8  # requests in a row, at least, that it did not answer: the server is down
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_LONGEST_BUSY_S = 4.0  # rest, or pause, of a server that only turns away: it is there, and soon has room
_LONGEST_ASKED_S = 300.0  # that a server's own words are taken for; some tell when the day's rate begins anew
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
    tries once more, so that the first kind costs nothing; turned away twice, it rests as long as an answer takes:
    refilled at once, it would be turned away a dozen times before the next answer comes.

    The limit grows by one for every answer until tries fail, and then by one per round, while answers take no longer
    than before and the limit is made use of. It falls by one where tries are turned away, though not below what the
    server has been seen to work on unless they are many, and to the share of tries that did not fail where they are
    very many, at most by half. A server that answers nothing is probed by one request after pauses that double.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = float(min(most, _START))
        self.out = 0
        self._most, self._clock = most, clock
        # Since the last look: tries that were answered, turned away twice, or late; and the seconds of answers.
        self._tries: Counter[str] = Counter()
        self._seconds, self._window, self._since = 0.0, _WINDOW, clock()
        self._blind_until = 0.0  # what comes back before was sent under another limit
        self._taken = 0.0  # most requests that the server worked on at a time, in the mean of a window
        self._searching = self._grows = True
        self._latency, self._best = 0.0, math.inf  # lately, and of the quickest window
        self._unanswered, self._pause_s = 0, _FIRST_PAUSE_S
        self._paused_until = 0.0
        self._unanswered_since = self._silent_since = 0.0  # the second: not even turned away
        self._is_silent = False
        self._second_tries = 0  # to come
        self._resting: list[float] = []  # when places that were turned away may be used again

    @property
    def is_down(self) -> bool:
        if self._unanswered < max(_DEAD_AFTER, self.limit):
            return False
        # Too many at once are turned away in a row, too, until the next answer comes.
        return self._is_silent or self._clock() - self._unanswered_since >= _SLOWER * self._latency

    @property
    def down_s(self) -> float:
        """Seconds that it has been silent; 0 while a request is out that it may yet answer."""
        return self._clock() - self._silent_since if self.is_down and self._is_silent and not self.out else 0.0

    @property
    def refusing_s(self) -> float:
        """Seconds that it has answered nothing, though it may have turned requests away; 0 while one is out."""
        return self._clock() - self._unanswered_since if self.is_down and not self.out else 0.0

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
        # While it is down, pauses take the place of rests.
        return max(0, 1 - self.out if self.is_down else int(self.limit) - self.out - len(self._resting))

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
        asked_s = None if after_s is None else min(after_s, _LONGEST_ASKED_S)
        if outcome in ("answered", "refused"):
            self._unanswered, self._pause_s, self._is_silent = 0, _FIRST_PAUSE_S, False
        else:
            self._not_answered(is_there=outcome == "busy")
            if asked_s is not None and self.is_down:
                self.pause(asked_s)
        if outcome == "busy" and not place.is_second_try:
            self._second_tries += 1
            if asked_s is not None:
                self._rest(asked_s)
            return
        if outcome == "busy":
            self._rest(min(_LONGEST_BUSY_S, self._latency - seconds) if asked_s is None else asked_s)
        if outcome in ("answered", "busy", "late"):
            self._adapt(outcome, seconds)

    def _rest(self, seconds: float) -> None:
        heapq.heappush(self._resting, self._clock() + seconds)

    def _not_answered(self, is_there: bool) -> None:
        if not self._unanswered:
            self._unanswered_since = self._clock()
        if not is_there and not self._is_silent:
            self._silent_since = self._clock()
        self._is_silent = not is_there
        self._unanswered += 1
        if self.is_down and self._clock() >= self._paused_until:
            # What was sent before the pause says nothing new. Actors that were cut off together must not all come back
            # together.
            self._pause_s = min(_LONGEST_BUSY_S if is_there else _LONGEST_PAUSE_S, self._pause_s)
            self.pause(self._pause_s * random.uniform(0.8, 1.2))
            self._pause_s *= 2

    def pause(self, seconds: float) -> None:
        """Have no room for so long."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _adapt(self, outcome: Outcome, seconds: float) -> None:
        if outcome == "answered":
            self._latency = seconds if not self._latency else 0.9 * self._latency + 0.1 * seconds
        if self._clock() < self._blind_until:
            return
        self._tries[outcome] += 1
        self._seconds += seconds if outcome == "answered" else 0.0
        if self._tries.total() >= self._window:
            self._look()
        used = self.out + len(self._resting) + 1
        is_quick = self._latency <= _SLOWER * self._best
        if outcome == "answered" and self._grows and used >= _USED * self.limit and is_quick:
            self.limit = min(float(self._most), self.limit + (1 if self._searching else 1 / self.limit))

    def _look(self) -> None:
        """Judge a window of tries, and begin the next."""
        total = self._tries.total()
        busy, late = self._tries["busy"] / total, self._tries["late"] / total
        # Little's law; cautious, since some of the answers were begun before the window.
        self._taken = max(self._taken, self._seconds / (self._clock() - self._since + self._latency + _TICK_S))
        if busy + late > _COLLAPSES_ABOVE:
            self.limit = max(1.0, self.limit * max(0.5, 1 - busy - late))
            self._blind_until = self._clock() + self._latency
        elif max(busy, late) > _FALLS_ABOVE:
            self.limit = max(1.0, self.limit - 1)
        elif busy > _GROWS_BELOW:
            self.limit = max(min(self.limit, self._taken), self.limit - 1)
        self._grows = busy <= _GROWS_BELOW and late <= _FALLS_ABOVE
        self._searching &= self._grows
        if self._tries["answered"]:
            # Of whole windows: the first answers to come are the shortest.
            self._best = min(self._best, self._seconds / self._tries["answered"])
        self._tries.clear()
        self._seconds, self._window = 0.0, max(_WINDOW, int(2 * self.limit))
        self._since = max(self._clock(), self._blind_until)
