"""The shipping gate."""

import pytest

from pipeline.evaluation.gate import decide
from pipeline.evaluation.metrics import Means


def means(ndcg: float, queries: int = 50, without_relevant: int = 0) -> Means:
    return Means(ndcg, 0.0, 0.0, queries, without_relevant)


def test_better_and_equal_encoders_ship():
    better, equal = decide(means(0.6), means(0.7)), decide(means(0.6), means(0.6))
    assert better.verdict == equal.verdict == "ship" and better.ships
    assert better.reason == "On 50 dev queries the tuned encoder reaches nDCG@10 0.700, above the base encoder's 0.600."
    assert "equal to the base encoder's 0.600" in equal.reason


def test_a_worse_encoder_stays_home():
    decision = decide(means(0.7), means(0.6))
    assert not decision.ships and decision.verdict == "keep base"
    assert "0.600, below the base encoder's 0.700." in decision.reason


def test_figures_that_round_alike_are_told_apart():
    """'0.700 is below 0.700' reads like a bug."""
    assert "0.70001, below the base encoder's 0.70002" in decide(means(0.70002), means(0.70001)).reason


def test_without_dev_queries_nothing_ships():
    decision = decide(None, None)
    assert not decision.ships and "no judged dev query" in decision.reason


def test_dev_queries_that_nobody_can_answer_prove_nothing():
    decision = decide(means(0.0, 3, 3), means(0.0, 3, 3))
    assert not decision.ships and "relevant passage" in decision.reason


def test_figures_over_different_queries_are_not_compared():
    with pytest.raises(ValueError, match="50 dev queries but tuned on 49"):
        decide(means(0.6), means(0.7, queries=49))
