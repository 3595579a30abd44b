"""Which queries form which batch: finite, seeded, the same for any number of workers."""

from __future__ import annotations

import random


def epoch_batches(count: int, batch_size: int, workers: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of an epoch's batches: every one of `count` rows once, in an order drawn from (seed, epoch).

    A last batch too small to have in-batch negatives, or a row per worker, joins the one before.
    With fewer rows than `batch_size` the batch shrinks. Raises ValueError when there are fewer rows than workers.
    """
    if count < workers:
        raise ValueError(f"{count} training queries for {workers} workers: use fewer workers")
    order = list(range(count))
    random.Random(f"{seed}-{epoch}").shuffle(order)
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    if len(batches) > 1 and len(batches[-1]) < max(2, workers):
        tail = batches.pop()
        batches[-1] += tail
    return batches


def worker_slice(rows: int, rank: int, workers: int) -> slice:
    """The contiguous rows of a batch that belong to one worker; sizes differ by one at most."""
    return slice(rows * rank // workers, rows * (rank + 1) // workers)


def draw(choices: int, seed: int, epoch: int, row: int) -> int:
    """Number of the labelled positive that a visit of a query uses."""
    return random.Random(f"{seed}-{epoch}-{row}").randrange(choices)
