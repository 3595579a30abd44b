"""Batches of an epoch and slices of workers."""

import pytest

from pipeline.training.sampler import epoch_batches, worker_slice


@pytest.mark.parametrize("count", [2, 3, 7, 32, 33, 65, 100])
@pytest.mark.parametrize("workers", [1, 2])
def test_epoch_visits_every_query_once(count: int, workers: int):
    batches = epoch_batches(count, 32, workers, seed=1, epoch=0)
    assert sorted(row for batch in batches for row in batch) == list(range(count))


def test_no_batch_is_too_small_for_negatives_or_workers():
    """33 queries in batches of 32 would leave one query alone: a loss of zero and a wasted step."""
    assert [len(batch) for batch in epoch_batches(33, 32, 1, 0, 0)] == [33]
    assert min(len(batch) for batch in epoch_batches(66, 32, 4, 0, 0)) >= 4


def test_epochs_differ_and_repeat_with_the_seed():
    assert epoch_batches(64, 8, 1, 0, 0) == epoch_batches(64, 8, 1, 0, 0)
    assert epoch_batches(64, 8, 1, 0, 0) != epoch_batches(64, 8, 1, 0, 1)
    assert epoch_batches(64, 8, 1, 0, 0) != epoch_batches(64, 8, 1, 1, 0)


def test_batches_do_not_depend_on_the_number_of_workers():
    assert epoch_batches(64, 8, 1, 0, 0) == epoch_batches(64, 8, 4, 0, 0)


@pytest.mark.parametrize(("rows", "workers"), [(7, 3), (4, 4), (9, 2), (32, 1)])
def test_slices_of_workers_cover_a_batch_without_overlap(rows: int, workers: int):
    covered = [row for rank in range(workers) for row in range(rows)[worker_slice(rows, rank, workers)]]
    assert covered == list(range(rows))


def test_fewer_queries_than_workers_is_refused():
    with pytest.raises(ValueError, match="fewer workers"):
        epoch_batches(2, 32, 3, 0, 0)
