"""Which examples form which batch: finite, seeded, the same for any number of workers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Dataset:
    """Rows that may share a batch: a stretch of the training set, and how often an epoch visits each of them."""

    start: int
    rows: int
    weight: float = 1.0


@dataclass(frozen=True)
class Sampler:
    """The batches of a whole training. A step's batch is found without going through those before it."""

    datasets: tuple[Dataset, ...]
    batch_size: int
    epochs: int
    workers: int
    seed: int

    def __post_init__(self) -> None:
        for dataset in self.datasets:
            if dataset.rows < self.workers:
                raise ValueError(f"{dataset.rows} training queries for {self.workers} workers: use fewer workers")

    @property
    def steps_per_epoch(self) -> int:
        return sum(len(self.starts(dataset)) for dataset in self.datasets)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def batch(self, step: int) -> tuple[int, list[int]]:
        """`(epoch, rows)` of a 0-based step. A batch is of one dataset."""
        epoch, turn = divmod(step, self.steps_per_epoch)
        number, start, stop = _plan(self, epoch)[turn]
        dataset = self.datasets[number]
        order = _permutation(dataset.rows, self.visits(dataset), f"{self.seed}-{number}", epoch)
        return epoch, [dataset.start + int(row) for row in order[start:stop]]

    def visits(self, dataset: Dataset) -> int:
        """Rows that an epoch visits, repetitions counted."""
        return max(self.workers, round(dataset.rows * dataset.weight))

    def starts(self, dataset: Dataset) -> Sequence[int]:
        """Where a dataset's batches begin among its visits of an epoch. With few rows the batch shrinks.

        A last batch too small to have in-batch negatives, or a row per worker, joins the one before.
        """
        visits = self.visits(dataset)
        starts = range(0, visits, self.batch_size)
        return starts[:-1] if len(starts) > 1 and visits - starts[-1] < max(2, self.workers) else starts


@lru_cache(maxsize=2)
def _plan(sampler: Sampler, epoch: int) -> list[tuple[int, int, int]]:
    """Dataset and bounds of every batch of an epoch, datasets mixed."""
    plan = []
    for number, dataset in enumerate(sampler.datasets):
        starts = sampler.starts(dataset)
        stops = [*starts[1:], sampler.visits(dataset)]
        plan += [(number, start, stop) for start, stop in zip(starts, stops, strict=True)]
    if len(sampler.datasets) > 1:
        random.Random(f"{sampler.seed}-{epoch}").shuffle(plan)
    return plan


@lru_cache(maxsize=8)
def _permutation(rows: int, visits: int, seed: str, epoch: int) -> npt.NDArray[np.int64]:
    """The rows that an epoch visits, in order: whole rounds of all rows, cut where the epoch ends.

    With a weight below 1 the next epoch goes on where this one stopped, so that every row has its turn.
    """
    first = epoch * visits
    rounds = []
    for number in range(first // rows, (first + visits - 1) // rows + 1):
        chance = np.random.Generator(np.random.PCG64([*seed.encode(), number]))
        rounds.append(chance.permutation(rows))
    return np.concatenate(rounds)[first % rows :][:visits]


def worker_slice(rows: int, rank: int, workers: int) -> slice:
    """The contiguous rows of a batch that belong to one worker; sizes differ by one at most."""
    return slice(rows * rank // workers, rows * (rank + 1) // workers)
