"""Orders from preferences, against a likelihood maximised by other means."""

from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.optimize import minimize

from pipeline.preferences.aggregation import (
    Consistency,
    consistency,
    copeland_scores,
    log_strengths,
    order_of,
    win_matrix,
)

IDS = ["a", "b", "c", "d"]


def negative_log_likelihood(strengths: np.ndarray, wins: np.ndarray) -> float:
    """Bradley-Terry, with a tenth of a win imagined for each of every pair."""
    return sum(
        (wins[i, j] + 0.1) * np.logaddexp(0, strengths[j] - strengths[i]) for i, j in permutations(range(len(wins)), 2)
    )


@pytest.mark.parametrize("seed", range(6))
def test_strengths_are_the_most_likely_ones(seed: int):
    wins = np.random.default_rng(seed).poisson(0.8, size=(4, 4)).astype(float)
    np.fill_diagonal(wins, 0)
    found = log_strengths(wins)
    best = minimize(negative_log_likelihood, np.zeros(4), args=(wins,), tol=1e-12).x
    assert np.allclose(found, best - best.mean(), atol=1e-4)
    assert abs(found.sum()) < 1e-5


def test_complete_agreement_is_an_order_with_finite_strengths():
    """Without a prior the winner's strength grows for ever and the loop ends where it happens to stop."""
    order, strengths = order_of(IDS, list(combinations(["d", "b", "a", "c"], 2)))
    assert order == ["d", "b", "a", "c"]
    assert strengths == sorted(strengths, reverse=True) and len(set(strengths)) == 4
    assert max(strengths) < 5
    many = [f"{number:03d}" for number in range(100)]
    assert order_of(many[::-1], list(combinations(many, 2)))[0] == many


def test_circle_is_broken_by_the_rank_in_stage_1():
    order, strengths = order_of(["c", "a", "b"], [("a", "b"), ("b", "c"), ("c", "a")])
    assert order == ["c", "a", "b"] and strengths == [0.0, 0.0, 0.0]


def test_repeated_votes_weigh_more_than_single_ones():
    order, _ = order_of(["a", "b", "c"], [("b", "a"), ("b", "a"), ("a", "b"), ("a", "c"), ("b", "c")])
    assert order == ["b", "a", "c"]


def test_copeland_counts_majorities_and_not_votes():
    wins = win_matrix(IDS, [("a", "b")] * 5 + [("c", "a"), ("d", "a"), ("c", "d")])
    assert copeland_scores(wins).tolist() == [-1, -1, 2, 0]


def test_cycles_are_counted_once_each_as_by_enumeration():
    rng = np.random.default_rng(0)
    ids = [str(number) for number in range(9)]
    pairs = [pair if rng.random() < 0.5 else pair[::-1] for pair in combinations(ids, 2) if rng.random() < 0.8]
    beats = set(pairs)
    triples = [t for t in combinations(ids, 3) if all(p in beats or p[::-1] in beats for p in combinations(t, 2))]
    cyclic = [t for t in triples if all(sum((one, other) in beats for other in t) == 1 for one in t)]
    assert consistency(win_matrix(ids, pairs)) == Consistency(len(cyclic), len(triples))
    assert len(cyclic) > 3
    assert consistency(win_matrix(["x", "y"], [("x", "y"), ("y", "x")])) == Consistency(0, 0)


def test_preference_about_another_passage_is_refused():
    with pytest.raises(KeyError):
        order_of(["a", "b"], [("a", "z")])
