"""A run played through by chance: nodes come late or are taken away, and slices of work take longer than others.

Discrete events: a node comes, a node is lost, a worker has done a slice. What a plan reckons with means, this gives as
a spread. Where workers are at work together, as in training, one that is lost stops all of them, and they go on from
the last checkpoint when another one is there.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

_SLICES, _LEAST_PER_WORKER, _MOST_PER_WORKER = 2_000, 4, 20  # of a stage: more change no spread, and cost time
_CHECKPOINTS = 10  # of a training


@dataclass(frozen=True)
class Chances:
    """What a cluster does to a run.

    Args:
        boot_s: mean time from asking for a node until it works; each takes between half of it and twice as long.
        losses_per_hour: of one spot node.
        straggling: sigma of the log-normal time of a slice.
    """

    boot_s: float = 180.0
    losses_per_hour: float = 0.02
    straggling: float = 0.2


@dataclass(frozen=True)
class Job:
    """A stage to play through: seconds of one worker, and the nodes that hold so many workers each."""

    work_s: float
    overhead_s: float
    workers: int
    workers_per_node: int
    together: bool = False

    @property
    def nodes(self) -> int:
        return math.ceil(self.workers / self.workers_per_node)


@dataclass(frozen=True)
class Played:
    """How a stage went: from its beginning to its end, what its nodes were there for, and those that were lost."""

    seconds: float
    node_s: float
    losses: int


def play(jobs: Sequence[Job], chances: Chances, seed: int) -> list[Played]:
    """Each stage once, one after the other, on nodes of its own."""
    draw = random.Random(seed)
    return [_together(job, chances, draw) if job.together else _Apart(job, chances, draw).played() for job in jobs]


class _Apart:
    """Slices that any worker takes; those in hand on a node that is lost are done again."""

    def __init__(self, job: Job, chances: Chances, draw: random.Random) -> None:
        self.job, self.chances, self.draw = job, chances, draw
        count = job.workers * min(_MOST_PER_WORKER, max(_LEAST_PER_WORKER, _SLICES // job.workers)) if job.work_s else 0
        self.waiting = [_straggled(job.work_s / count, chances, draw) for _ in range(count)]
        self.events: list[tuple[float, int, Callable[[float, int], None], int]] = []
        self.numbers, self.nodes = itertools.count(), itertools.count(1)
        self.in_hand: dict[int, dict[int, float]] = {}  # node -> what its workers have: number and length of a slice
        self.came: dict[int, float] = {}
        self.node_s, self.losses = 0.0, 0

    def played(self) -> Played:
        now = self.job.overhead_s
        for _ in range(self.job.nodes if self.waiting else 0):
            self._order(now)
        while self.waiting or any(self.in_hand.values()):
            now, _, happens, node = heapq.heappop(self.events)
            happens(now, node)
        return Played(now, self.node_s + sum(now - came for came in self.came.values()), self.losses)

    def _order(self, now: float) -> None:
        self._later(now + _boot(self.chances, self.draw), self._comes, next(self.nodes))

    def _comes(self, now: float, node: int) -> None:
        self.came[node], self.in_hand[node] = now, {}
        self._later(now + _life(self.chances, self.draw), self._is_lost, node)
        self._take(now, node)

    def _is_lost(self, now: float, node: int) -> None:
        self.losses += 1
        self.waiting += self.in_hand.pop(node).values()
        self.node_s += now - self.came.pop(node)
        self._order(now)
        for other in self.in_hand:
            self._take(now, other)

    def _has_done(self, slice_: int, now: float, node: int) -> None:
        if self.in_hand.get(node, {}).pop(slice_, None) is not None:  # else the node is gone
            self._take(now, node)

    def _take(self, now: float, node: int) -> None:
        at_work = self.in_hand[node]
        while self.waiting and len(at_work) < _places(self.job, node):
            length, slice_ = self.waiting.pop(), next(self.numbers)
            at_work[slice_] = length
            self._later(now + length, partial(self._has_done, slice_), node)

    def _later(self, when: float, happens: Callable[[float, int], None], node: int) -> None:
        if when < math.inf:
            heapq.heappush(self.events, (when, next(self.numbers), happens, node))


def _together(job: Job, chances: Chances, draw: random.Random) -> Played:
    """All workers at one step; the slowest node sets the pace, and a loss costs what is after the last checkpoint."""
    now = job.overhead_s + max((_boot(chances, draw) for _ in range(job.nodes)), default=0.0)
    began, losses = now, 0
    part = job.work_s / max(job.workers, 1) / _CHECKPOINTS
    for _ in range(_CHECKPOINTS if job.work_s else 0):
        while True:
            length = _straggled(part, chances, draw)
            lost = min((_life(chances, draw) for _ in range(job.nodes)), default=math.inf)
            if lost >= length:
                now += length
                break
            losses += 1
            now += lost + _boot(chances, draw)
    return Played(now, (now - began) * job.nodes, losses)


def _places(job: Job, node: int) -> int:
    """Workers of a node; the last one ordered at the beginning may have fewer."""
    rest = job.workers - (job.nodes - 1) * job.workers_per_node
    return rest if node == job.nodes else job.workers_per_node


def _straggled(mean: float, chances: Chances, draw: random.Random) -> float:
    """Log-normal with that mean."""
    if not chances.straggling:
        return mean
    return mean * draw.lognormvariate(-(chances.straggling**2) / 2, chances.straggling)


def _boot(chances: Chances, draw: random.Random) -> float:
    return chances.boot_s * draw.triangular(0.5, 2.0, 0.5)


def _life(chances: Chances, draw: random.Random) -> float:
    return draw.expovariate(chances.losses_per_hour / 3600) if chances.losses_per_hour else math.inf
