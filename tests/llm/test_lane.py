"""How many requests an endpoint is given, simulated on a clock of our own."""

import heapq
import random
from collections.abc import Callable
from functools import partial

import pytest

from pipeline.llm.engines.lane import Lane, Outcome, Place


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def serve(
    lane: Lane,
    clock: Clock,
    seconds: float,
    answer: Callable[[int], tuple[Outcome, float]],
    after_s: float | None = None,
) -> tuple[int, int, int]:
    """Keep the lane full; returns answered, turned away, and the most in flight.

    Args:
        answer: what becomes of a request, and when, by the number of those that the server works on with it.
        after_s: told to who is turned away.
    """
    out: list[tuple[float, int, Outcome, float, Place]] = []
    counts = {"answered": 0, "busy": 0, "late": 0, "down": 0, "refused": 0}
    number = most = 0
    while clock.now < seconds:
        for _ in range(lane.room):
            place = lane.enter()
            at_work = sum(each[0] > clock.now and each[2] == "answered" for each in out)
            outcome, latency = answer(at_work + 1)
            number += 1
            heapq.heappush(out, (clock.now + latency, number, outcome, latency, place))
        most = max(most, len(out))
        if not out:
            clock.now += max(lane.wait_s, 0.01)
            continue
        clock.now, _, outcome, latency, place = heapq.heappop(out)
        place.leave(outcome, latency, after_s if outcome == "busy" else None)
        counts[outcome] += 1
    return counts["answered"], counts["busy"], most


def test_limit_finds_what_the_server_takes_and_stays_near_it():
    clock = Clock()
    lane, chance = Lane(256, clock), random.Random(0)
    seconds = partial(chance.uniform, 0.15, 0.25)
    answered, busy, _ = serve(lane, clock, 60, lambda out: ("answered", seconds()) if out <= 64 else ("busy", 0.01))
    assert 50 <= lane.limit <= 85
    assert answered >= 0.9 * 60 * 64 / 0.2 and busy < 0.2 * answered


@pytest.mark.parametrize(("share", "after_s"), [(0.1, None), (0.1, 0.0), (0.1, 0.1), (0.2, None)])
def test_requests_turned_away_at_random_do_not_strangle_it(share: float, after_s: float | None):
    """Halved at every one of them, the limit would be a handful while the server idles."""
    chance, clock = random.Random(0), Clock()
    lane = Lane(64, clock)

    def answer(out: int) -> tuple[Outcome, float]:
        return ("busy", 0.01) if chance.random() < share else ("answered", 0.2)

    answered, _, _ = serve(lane, clock, 900, answer, after_s)
    assert lane.limit > 40 and answered >= (0.85 if share < 0.2 else 0.6) * 900 * 64 / 0.2


def test_requests_that_are_lost_at_random_do_not_strangle_it():
    chance, clock = random.Random(0), Clock()
    lane = Lane(64, clock)

    def answer(out: int) -> tuple[Outcome, float]:
        fate = chance.random()
        return ("late", 2.0) if fate < 0.05 else ("busy", 0.01) if fate < 0.15 else ("answered", 0.2)

    serve(lane, clock, 900, answer)
    assert lane.limit > 60


@pytest.mark.parametrize("seed", range(4))
def test_answers_of_many_lengths_are_no_sign_of_a_full_server(seed: int):
    """The first to come are the shortest: against them, all others would look slow for ever."""
    chance, clock = random.Random(seed), Clock()
    lane = Lane(256, clock)
    serve(lane, clock, 300, lambda _: ("answered", 2 * chance.lognormvariate(0, 1)))
    assert lane.limit > 200


@pytest.mark.parametrize("length_s", [1, 60, 150])
def test_server_that_was_away_for_seconds_is_full_again_soon(length_s: float):
    """Rests as long as an answer takes would leave it idle for minutes, and one bad moment would cost all places."""
    clock = Clock()
    lane, sent = Lane(32, clock), list[float]()
    begins = 4 * length_s  # when all answers come

    def answer(_: int) -> tuple[Outcome, float]:
        sent.append(clock.now)
        return ("busy", 0.005) if begins <= clock.now < begins + 5 else ("answered", length_s)

    serve(lane, clock, begins + 15 + 3 * length_s, answer)
    assert any(begins <= at < begins + 5 for at in sent), "it was asked while it was away"
    assert any(begins + 5 <= at < begins + 15 for at in sent) and lane.limit >= 16


def test_retry_after_is_kept_to_while_everything_is_turned_away():
    clock = Clock()
    lane, sent = Lane(32, clock), list[float]()

    def answer(_: int) -> tuple[Outcome, float]:
        sent.append(clock.now)
        return ("busy", 0.005) if 100 <= clock.now < 160 else ("answered", 1.0)

    serve(lane, clock, 200, answer, after_s=60.0)
    assert sum(101.1 <= at < 160 for at in sent) == 0 and any(at >= 160 for at in sent)


def test_limit_is_found_where_others_are_turned_away_at_random_too():
    """Taken for random, requests that are too many would leave places of the server empty, or batter it."""
    chance, clock = random.Random(0), Clock()
    lane = Lane(256, clock)

    def answer(out: int) -> tuple[Outcome, float]:
        return ("busy", 0.01) if out > 64 or chance.random() < 0.1 else ("answered", 0.2)

    answered, busy, _ = serve(lane, clock, 120, answer)
    assert answered >= 0.93 * 120 * 64 / 0.2 and busy < 0.25 * answered


def test_server_that_slows_down_is_not_given_more():
    """Requests that only wait for each other time out in the end."""
    clock = Clock()
    lane = Lane(512, clock)
    _, _, most = serve(lane, clock, 120, lambda out: ("answered", 0.1 * max(1, out / 40)))
    assert 40 <= most <= 200


def test_dead_server_is_probed_by_one_and_found_again():
    clock = Clock()
    lane = Lane(64, clock)
    sent: list[float] = []

    def answer(out: int) -> tuple[Outcome, float]:
        sent.append(clock.now)
        return ("down", 0.01) if 10 <= clock.now < 70 else ("answered", 0.1)

    # The last pause before it is up again may be of 30 seconds, and a fifth more by chance.
    serve(lane, clock, 70 + 36 + 10, answer)
    probes = [at for at in sent if 12 <= at < 70]
    assert 2 <= len(probes) <= 12
    assert sum(at > clock.now - 5 for at in sent) > 1000, "back at full speed"


def test_server_that_turns_everything_away_is_probed_by_one():
    """Refused within milliseconds, thousands of requests would batter it, and use up a budget, without an answer."""
    clock = Clock()
    lane = Lane(64, clock)
    _, busy, _ = serve(lane, clock, 60, lambda out: ("busy", 0.005))
    assert busy < 150 and lane.is_down and lane.refusing_s > 50 and lane.down_s == 0


def test_server_that_works_long_is_not_given_up_for_those_it_turns_away():
    """Full of long answers, it answers nobody for minutes."""
    clock = Clock()
    lane = Lane(32, clock)
    working = [lane.enter() for _ in range(4)]
    for _ in range(100):
        lane.enter().leave("busy", 0.01)
    clock.now = 600
    assert lane.is_down and lane.down_s == 0
    for place in working:
        place.leave("answered", 600)
    assert not lane.is_down


@pytest.mark.parametrize("outcome", ["refused", "answered", "busy", "late", "down"])
def test_place_is_given_back_whatever_happens(outcome: Outcome):
    lane = Lane(4)
    for _ in range(200):
        lane.enter().leave(outcome, 0.01)
    assert lane.out == 0 and lane.limit >= 1
