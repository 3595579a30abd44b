"""A run played through by chance: nodes come late or are taken away, and slices of work take longer than others.

Discrete events: a node comes, a node is lost, a worker has done a slice. Stages follow each other; nodes of a kind stay
from one to the next unless they had nothing to do for too long. Where workers are at work together, as in training, one
that is lost stops all of them, and they go on from the last checkpoint when another one is there.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

_MOST_SLICES = 20, 4_000  # per worker, and in all: more cost time and change little; several pieces are one then
_MOST_LOSSES = 2.0  # while lost work is done again: it is then begun seven times, and one more makes that threefold
_PARTS = 10  # of a training, each with a straggler of its own


@dataclass(frozen=True)
class Chances:
    """What a cluster does to a run.

    Args:
        boot_s: mean time from asking for a node until it works; each takes between half of it and twice as long.
        losses_per_hour: of one spot node.
        straggling: sigma of the log-normal time of a slice.
        redone_s: of work, at most, that goes with a node: what it has done since its last block or checkpoint.
    """

    boot_s: float = 180.0
    losses_per_hour: float = 0.02
    straggling: float = 0.2
    redone_s: float = 600.0


@dataclass(frozen=True)
class Job:
    """A stage to play through: seconds of one worker, and the nodes, of one kind, that hold so many workers each.

    Args:
        slices: pieces that the work comes in, each of which is done at once or not at all; None: as small as one likes.
        idle_s: after which a node of the kind goes when it has no work.
    """

    node_type: str
    is_spot: bool
    work_s: float
    overhead_s: float
    workers: int
    workers_per_node: int
    slices: int | None = None
    together: bool = False
    idle_s: float = 300.0

    @property
    def nodes(self) -> int:
        return math.ceil(self.workers / self.workers_per_node)

    def ends(self, chances: Chances) -> bool:
        """Whether what goes with a node is done again before the next one is likely to go."""
        if not self.is_spot:
            return True
        again_s = chances.redone_s if self.slices is None or self.together else self.work_s / self.slices
        lost_per_hour = chances.losses_per_hour * (self.nodes if self.together else 1)
        return (again_s + self.overhead_s) * lost_per_hour / 3600 <= _MOST_LOSSES

    @property
    def seconds(self) -> float:
        """Where nothing happens, and the nodes are there."""
        if self.slices is None or self.together:
            return self.overhead_s + self.work_s / self.workers
        return self.overhead_s + math.ceil(self.slices / self.workers) * self.work_s / self.slices


@dataclass(frozen=True)
class Played:
    """How a run went: seconds from beginning to end, what nodes of each kind were there for, and those lost."""

    seconds: float
    node_s: dict[str, float]
    losses: int


@dataclass(eq=False)
class _Node:
    ordered: float
    ready: float
    lost: float
    idle_s: float
    released: float = math.inf


@dataclass
class _Cluster:
    """Nodes over time, by kind."""

    chances: Chances
    draw: random.Random
    now: float = 0.0
    losses: int = 0
    node_s: dict[str, float] = field(default_factory=dict)
    nodes: dict[str, list[_Node]] = field(default_factory=dict)

    def take(self, job: Job) -> list[_Node]:
        """As many as it needs: those that are still there, and others that are asked for."""
        self._send_idle_away()
        there = self.nodes.setdefault(job.node_type, [])
        while len(there) < job.nodes:
            there.append(self.order(job, self.now))
        return there[: job.nodes]

    def order(self, job: Job, when: float) -> _Node:
        ready = when + self.chances.boot_s * self.draw.triangular(0.5, 2.0, 0.5)
        losses = self.chances.losses_per_hour if job.is_spot else 0.0
        lost = ready + self.draw.expovariate(losses / 3600) if losses else math.inf
        return _Node(when, ready, lost, job.idle_s)

    def replace(self, job: Job, lost: _Node, when: float) -> _Node:
        self.losses += 1
        self._pay(job.node_type, lost, when)
        there = self.nodes[job.node_type]
        new = self.order(job, when)
        there[there.index(lost)] = new
        return new

    def end_stage(self, used: Sequence[_Node], when: float) -> None:
        self.now = when
        for node in used:
            node.released = when

    def end(self) -> Played:
        total = self.now
        self.now = math.inf
        self._send_idle_away()
        return Played(total, self.node_s, self.losses)

    def _send_idle_away(self) -> None:
        for kind, nodes in self.nodes.items():
            for node in list(nodes):
                gone = min(node.released + node.idle_s, node.lost)
                if gone <= self.now:
                    nodes.remove(node)
                    self._pay(kind, node, gone)

    def _pay(self, kind: str, node: _Node, until: float) -> None:
        self.node_s[kind] = self.node_s.get(kind, 0.0) + until - node.ordered


def play(jobs: Sequence[Job], chances: Chances, seed: int) -> Played:
    """The jobs, one after the other; each of them must be one that ends."""
    cluster = _Cluster(chances, random.Random(seed))
    for job in jobs:
        nodes = cluster.take(job)
        end = _together(job, cluster, nodes) if job.together else _Apart(job, cluster, nodes).end()
        cluster.end_stage(cluster.nodes[job.node_type][: job.nodes], end)
    return cluster.end()


def _together(job: Job, cluster: _Cluster, nodes: list[_Node]) -> float:
    """When it ends: all workers are at one step, and a straggler holds up all of them."""
    now = max([cluster.now, *(node.ready for node in nodes)]) + job.overhead_s
    for _ in range(_PARTS):
        left = _straggled(job.work_s / job.workers / _PARTS, cluster)
        while (first := min(nodes, key=lambda node: node.lost)).lost < now + left:
            done = max(0.0, first.lost - now)
            left -= max(0.0, done - cluster.chances.redone_s)
            nodes[nodes.index(first)] = new = cluster.replace(job, first, first.lost)
            now = max(now, new.ready + job.overhead_s)
        now += left
    return now


@dataclass(frozen=True)
class _Slice:
    """In hand: seconds that it takes, and when it will be done."""

    length: float
    end: float


class _Apart:
    """Slices that any worker takes; of those in hand on a node that is lost, the end of what was done goes with it."""

    def __init__(self, job: Job, cluster: _Cluster, nodes: list[_Node]) -> None:
        self.job, self.cluster = job, cluster
        per_worker, in_all = _MOST_SLICES
        most = job.workers * max(1, min(per_worker, in_all // job.workers))
        count = most if job.slices is None else min(job.slices, most)
        # At most so much of a slice goes with its node: a whole piece, where it comes in such
        self.lost_s = cluster.chances.redone_s if job.slices is None else job.work_s / job.slices
        self.is_piece = count == job.slices
        self.waiting = [_straggled(job.work_s / count, cluster) for _ in range(count)]
        self.left = count
        self.in_hand: dict[_Node, dict[int, _Slice]] = {}
        self.places = {node: self._places(number) for number, node in enumerate(nodes)}
        self.numbers = itertools.count()
        self.events: list[tuple[float, int, _Node, int | None]] = []  # when, order, where, slice done; None: see _at
        for node in nodes:
            self._comes(node, cluster.now)

    def end(self) -> float:
        now = self.cluster.now
        while self.left:
            now, _, node, slice_ = heapq.heappop(self.events)
            self._at(now, node, slice_)
        return now

    def _places(self, number: int) -> int:
        """Workers of a node; the last one may have fewer."""
        rest = self.job.workers - number * self.job.workers_per_node
        return min(rest, self.job.workers_per_node)

    def _comes(self, node: _Node, now: float) -> None:
        self._later(max(now, node.ready) + self.job.overhead_s, node)
        self._later(node.lost, node)

    def _at(self, now: float, node: _Node, slice_: int | None) -> None:
        if node not in self.places:  # it is gone
            return
        if now >= node.lost:
            self._is_lost(now, node)
        elif slice_ is None:
            self.in_hand[node] = {}
            self._take(now, node)
        else:
            del self.in_hand[node][slice_]
            self.left -= 1
            self._take(now, node)

    def _is_lost(self, now: float, node: _Node) -> None:
        self.waiting += [self._left(each, now) for each in self.in_hand.pop(node, {}).values()]
        new = self.cluster.replace(self.job, node, now)
        self.places[new] = self.places.pop(node)
        self._comes(new, now)
        for other in self.in_hand:
            self._take(now, other)

    def _left(self, slice_: _Slice, now: float) -> float:
        """Seconds that it still takes."""
        return slice_.length if self.is_piece else min(slice_.length, slice_.end - now + self.lost_s)

    def _take(self, now: float, node: _Node) -> None:
        at_work = self.in_hand[node]
        while self.waiting and len(at_work) < self.places[node]:
            slice_, length = next(self.numbers), self.waiting.pop()
            at_work[slice_] = _Slice(length, now + length)
            self._later(at_work[slice_].end, node, slice_)

    def _later(self, when: float, node: _Node, slice_: int | None = None) -> None:
        if when < math.inf:
            heapq.heappush(self.events, (when, next(self.numbers), node, slice_))


def _straggled(mean: float, cluster: _Cluster) -> float:
    """Log-normal with that mean."""
    sigma = cluster.chances.straggling
    return mean * cluster.draw.lognormvariate(-(sigma**2) / 2, sigma) if sigma else mean
