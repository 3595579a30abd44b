"""Batches: finite, seeded, homogeneous, and every row has its turn."""

from collections import Counter

import pytest

from pipeline.training.sampler import Dataset, Sampler, worker_slice


def batches(sampler: Sampler) -> list[tuple[int, list[int]]]:
    return [sampler.batch(step) for step in range(sampler.steps)]


def one(rows: int, batch_size: int = 4, epochs: int = 2, workers: int = 1, seed: int = 0) -> Sampler:
    return Sampler((Dataset(0, rows),), batch_size, epochs, workers, seed)


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 8, 9, 33])
def test_every_row_once_per_epoch(rows: int):
    found = batches(one(rows))
    for epoch in (0, 1):
        visited = [row for number, chosen in found if number == epoch for row in chosen]
        assert sorted(visited) == list(range(rows))


def test_batch_shrinks_with_few_rows_and_never_loops():
    assert [len(rows) for _, rows in batches(one(3, batch_size=100, epochs=1))] == [3]


def test_lonely_last_row_joins_the_batch_before():
    """Alone it would have no negative at all."""
    assert [len(rows) for _, rows in batches(one(9, epochs=1))] == [4, 5]
    assert [len(rows) for _, rows in batches(one(10, epochs=1, workers=3))] == [4, 6]


def test_same_batches_for_any_number_of_workers():
    assert batches(one(12)) == batches(one(12, workers=2)) == batches(one(12, workers=4))


def test_epochs_and_seeds_differ_and_a_repetition_does_not():
    first, second = batches(one(20, batch_size=20))
    assert first[1] != second[1]
    assert batches(one(20, seed=1)) != batches(one(20))
    assert batches(one(20)) == batches(one(20))


def test_step_found_alone_is_that_of_the_whole_sequence():
    """A resumed run asks for its step without having gone through those before."""
    everything = batches(one(50, epochs=3))
    assert one(50, epochs=3).batch(29) == everything[29]


def test_batches_are_of_one_dataset():
    """In-batch negatives from another collection are too easy to teach anything."""
    sampler = Sampler((Dataset(0, 10), Dataset(10, 30)), 4, 2, 1, 0)
    for _, rows in batches(sampler):
        assert all(row < 10 for row in rows) or all(row >= 10 for row in rows)
    origins = ["own" if rows[0] < 10 else "other" for _, rows in batches(sampler)]
    assert origins != sorted(origins) and origins != sorted(origins, reverse=True)


def test_weight_below_one_takes_other_rows_in_each_epoch_until_all_had_their_turn():
    sampler = Sampler((Dataset(0, 40, weight=0.25),), 5, 4, 1, 0)
    found = batches(sampler)
    assert len(found) == 8
    assert Counter(row for _, rows in found for row in rows) == Counter(range(40))


def test_weight_above_one_repeats_rows_evenly():
    sampler = Sampler((Dataset(0, 10, weight=2.0), Dataset(10, 10)), 5, 1, 1, 0)
    visits = Counter(row for _, rows in batches(sampler) for row in rows)
    assert {visits[row] for row in range(10)} == {2} and {visits[row] for row in range(10, 20)} == {1}


def test_fewer_rows_than_workers_is_refused():
    with pytest.raises(ValueError, match="use fewer workers"):
        one(2, workers=3)


def test_worker_slices_cover_the_batch():
    covered = [row for rank in range(3) for row in range(10)[worker_slice(10, rank, 3)]]
    assert covered == list(range(10))
