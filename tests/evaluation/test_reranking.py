"""Rerankers judged: what is reranked, what ships, and what the report of a run says of it."""

import pytest

from pipeline.evaluation.metrics import Means
from pipeline.evaluation.reranking import RerankedFigures, decide
from pipeline.evaluation.reranking_stage import pool, reranked
from pipeline.evaluation.significance import Comparison
from pipeline.rankings import Hit


def means(ndcg: float) -> Means:
    return Means(ndcg, ndcg, ndcg, 10, 0)


def change(difference: float, p_value: float) -> Comparison:
    return Comparison(10, difference, p_value, difference - 0.1, difference + 0.1, 5, 5)


def row(first: str, depth: int, ndcg: float) -> RerankedFigures:
    return RerankedFigures(first, depth, means(ndcg), None, change(0, 1), None, 1.0)


FIRST = {"BM25": means(0.5), "base": means(0.6)}


def test_a_reranker_ships_only_above_the_best_first_stage():
    """Better than BM25 alone is not good enough where the encoder is better still."""
    rows = [row("BM25", 10, 0.58), row("base", 10, 0.55)]
    decision = decide(FIRST, rows, {("BM25", 10): change(-0.02, 0.4), ("base", 10): change(-0.05, 0.01)})
    assert decision.verdict == "keep first stage" and (decision.first_stage, decision.depth) == ("base", 0)
    assert decision.reason.startswith("Reranking hurts here: BM25 with 10 hits reranked reaches nDCG@10 0.580")


def test_a_gain_that_luck_explains_does_not_ship():
    """Of nine rows, one is easily above by chance, and every query would pay for it."""
    rows = [row("BM25", 10, 0.61), row("base", 50, 0.62)]
    decision = decide(FIRST, rows, {("BM25", 10): change(0.01, 0.5), ("base", 50): change(0.02, 0.3)})
    assert not decision.ships and "luck explains (p = 0.30)" in decision.reason


def test_the_best_row_ships_and_of_equal_ones_the_cheaper():
    rows = [row("BM25", 100, 0.7), row("BM25", 10, 0.7), row("base", 10, 0.65)]
    gained = change(0.1, 0.001)
    decision = decide(FIRST, rows, {("BM25", 100): gained, ("BM25", 10): gained, ("base", 10): gained})
    assert decision.ships and (decision.first_stage, decision.depth) == ("BM25", 10)


def test_without_judged_dev_queries_nothing_ships():
    rows = [RerankedFigures("BM25", 10, None, means(0.9), None, change(0.4, 0.0), 1.0)]
    decision = decide({"BM25": None, "base": None}, rows, {("BM25", 10): None})
    assert not decision.ships and decision.reason.startswith("There is no judged dev query")


HITS = {"q": [Hit("a", 9.0), Hit("b", 8.0), Hit("c", 7.0), Hit("d", 6.0)]}


@pytest.mark.parametrize(
    ("scores", "order"),
    [
        ({"a": -3.0, "b": 2.0, "c": 5.0, "d": 99.0}, ["c", "b", "a", "d"]),  # d lies below the depth
        ({"a": 1.0, "b": 1.0, "c": 1.0}, ["a", "b", "c", "d"]),  # ties
        ({"a": 1.0, "b": 2.0, "c": 1.0}, ["b", "a", "c", "d"]),
    ],
)
def test_only_hits_down_to_the_depth_change_places(scores: dict[str, float], order: list[str]):
    found = reranked(HITS, {"q": scores}, 3)["q"]
    assert [hit.passage_id for hit in found] == order
    # Scores of a reranker and of a first stage on one scale would send the tail to the top.
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


def test_a_pair_is_scored_once_for_all_first_stages():
    other = {"q": [Hit("c", 1.0), Hit("e", 0.5), Hit("a", 0.2)], "r": [Hit("a", 1.0)]}
    assert pool([HITS, other], 2) == {"q": ["a", "b", "c", "e"], "r": ["a"]}
