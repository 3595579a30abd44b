"""Runs played through by chance: nodes that boot, idle and are lost, slices that straggle."""

import statistics
from dataclasses import replace

import pytest

from cluster.capacity.simulation import Chances, Job, play

NO_CHANCE = Chances(boot_s=0, losses_per_hour=0, straggling=0)
JOB = Job("cpu", is_spot=True, work_s=1000, overhead_s=10, workers=4, workers_per_node=2, idle_s=0)


@pytest.mark.parametrize(
    "job",
    [
        JOB,
        replace(JOB, workers=3),
        replace(JOB, together=True),
        replace(JOB, workers=700),
        replace(JOB, slices=5),
        replace(JOB, slices=2),
    ],
)
def test_without_chance_a_run_takes_what_is_reckoned(job: Job):
    played = play([job, job], NO_CHANCE, seed=0)
    assert played.seconds == pytest.approx(2 * job.seconds)
    assert played.node_s == {"cpu": pytest.approx(2 * job.nodes * job.seconds)}
    assert played.losses == 0


def test_more_workers_than_slices_are_of_no_use():
    """An index of five shards takes two rounds of four builders, however many seconds are in it."""
    assert replace(JOB, slices=5).seconds == pytest.approx(10 + 2 * 200)
    assert replace(JOB, slices=2, workers=4).seconds == pytest.approx(10 + 500)


@pytest.mark.parametrize("together", [False, True])
def test_chance_costs_time_and_lost_work_is_done_again(together: bool):
    job = Job("cpu", True, work_s=400_000, overhead_s=0, workers=20, workers_per_node=2, together=together)

    def seconds(chances: Chances, job: Job = job) -> float:
        return statistics.mean(play([job], chances, seed).seconds for seed in range(30))

    least = 400_000 / 20  # 5.6 hours
    assert seconds(NO_CHANCE) == pytest.approx(least)
    late, slow = replace(NO_CHANCE, boot_s=600), replace(NO_CHANCE, straggling=0.5)
    lost = replace(NO_CHANCE, losses_per_hour=0.2)
    assert least + 300 < seconds(late) < least + 1200
    assert least < seconds(slow) < 1.3 * least
    assert 1.005 * least < seconds(lost) < 2 * least
    assert any(play([job], lost, seed).losses for seed in range(5))
    assert seconds(lost, replace(job, is_spot=False)) == pytest.approx(least), "nobody takes these away"


def test_nodes_stay_for_the_next_stage_unless_they_have_been_idle_for_too_long():
    """Reckoned as if every stage started its own, a run of twenty stages would wait an hour for nodes."""
    chances = replace(NO_CHANCE, boot_s=100)
    first = replace(JOB, overhead_s=0, idle_s=300)
    other = replace(first, node_type="gpu")
    alone = play([first], chances, 0).seconds - first.seconds  # a start
    assert 50 <= alone <= 200
    assert play([first, first], chances, 0).seconds == pytest.approx(2 * first.seconds + alone)
    between = play([first, replace(other, work_s=40), first], chances, 0).seconds
    assert between < 2 * first.seconds + 10 + 2 * 200, "gone after ten seconds without work"
    again = play([first, replace(other, work_s=4000), first], chances, 0)
    assert again.seconds > 2 * first.seconds + 1000 + 3 * 50, "kept for a thousand seconds without work"
    assert again.node_s["cpu"] < 2 * (2 * first.seconds + 2 * 200 + 2 * 300 + 1)


@pytest.mark.parametrize("together", [False, True])
def test_work_that_takes_longer_than_a_spot_node_lives_ends_nevertheless(together: bool):
    """With the whole slice of a lost worker done again, ten thousand hours never end."""
    hours = 10_000
    job = Job("cpu", True, work_s=8 * hours * 3600, overhead_s=60, workers=8, workers_per_node=8, together=together)
    played = play([job], Chances(), seed=0)
    assert played.losses > 50 and hours < played.seconds / 3600 < 1.2 * hours
    shards = replace(job, work_s=8 * 3600 * 3600, slices=8, together=False)
    assert play([shards], Chances(losses_per_hour=0.0005), seed=1).seconds > 3600 * 3600, "a shard is built at once"


def test_lost_pieces_cost_themselves_and_not_those_that_are_played_with_them():
    """Twenty thousand shards are played as fewer; a lost one took thousands with it, and no plan came to an end."""
    job = Job("cpu", True, work_s=20_000 * 3600, overhead_s=0, workers=12, workers_per_node=4, slices=20_000)
    reckoned = job.seconds
    for hours in (1, 10):
        longer = replace(job, work_s=job.work_s * hours)
        assert longer.ends(Chances()) and 1 < play([longer], Chances(), 0).seconds / (reckoned * hours) < 1.4


def test_a_training_that_loses_more_than_it_does_is_known_as_one_that_would_not_end():
    """With a thousand spot nodes one is lost every three minutes, and ten minutes of work with each."""
    large = Job("gpu", True, work_s=1024 * 36_000, overhead_s=20, workers=1024, workers_per_node=1, together=True)
    assert not large.ends(Chances()) and replace(large, is_spot=False).ends(Chances())
    few = replace(large, workers=64, work_s=64 * 36_000)
    assert few.ends(Chances()) and play([few], Chances(), 0).seconds < 2 * few.seconds
    assert not few.ends(Chances(losses_per_hour=0.3))
