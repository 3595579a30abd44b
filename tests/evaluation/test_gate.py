"""The shipping gate."""

import pytest

from pipeline.evaluation.gate import Decision, decide
from pipeline.evaluation.metrics import Means


def means(ndcg: float, queries: int = 50, without_relevant: int = 0) -> Means:
    return Means(ndcg, 0.0, 0.0, queries, without_relevant)


def among(base: float, tuned: float, aligned: float) -> Decision:
    return decide(means(base), {"tuned": means(tuned), "aligned": means(aligned)})


def test_better_and_equal_encoders_ship():
    better, equal = (decide(means(0.6), {"tuned": means(ndcg)}) for ndcg in (0.7, 0.6))
    assert better.verdict == equal.verdict == "ship" and better.ships
    assert better.chosen == equal.chosen == "tuned"
    assert better.reason == "On 50 dev queries the tuned encoder reaches nDCG@10 0.700, above the base encoder's 0.600."
    assert "equal to the base encoder's 0.600" in equal.reason


def test_a_worse_encoder_stays_home():
    decision = decide(means(0.7), {"tuned": means(0.6)})
    assert not decision.ships and (decision.verdict, decision.chosen) == ("keep base", "base")
    assert "0.600, below the base encoder's 0.700." in decision.reason


@pytest.mark.parametrize(
    ("base", "tuned", "aligned", "chosen"),
    [
        (0.6, 0.7, 0.8, "aligned"),
        (0.6, 0.8, 0.7, "tuned"),
        (0.6, 0.5, 0.7, "aligned"),
        (0.8, 0.7, 0.75, "base"),
        (0.6, 0.7, 0.7, "tuned"),
        (0.6, 0.6, 0.6, "tuned"),
        (0.6, 0.5, 0.6, "aligned"),
        (0.6, 0.6, 0.5, "tuned"),
    ],
)
def test_the_best_of_three_is_chosen_and_a_second_training_must_earn_its_place(
    base: float, tuned: float, aligned: float, chosen: str
):
    """Shipping whatever was trained last would deploy an alignment that undid part of the first training."""
    decision = among(base, tuned, aligned)
    assert decision.chosen == chosen and decision.ships == (chosen != "base")


def test_the_reason_names_every_encoder_with_its_figure():
    assert among(0.6, 0.65, 0.7).reason == (
        "On 50 dev queries the aligned encoder reaches nDCG@10 0.700, above the tuned encoder's 0.650 "
        "and above the base encoder's 0.600."
    )
    assert among(0.6, 0.65, 0.65).reason == (
        "On 50 dev queries the tuned encoder reaches nDCG@10 0.650, equal to the aligned encoder's 0.650 "
        "and above the base encoder's 0.600."
    )
    assert among(0.7, 0.6, 0.65).reason == (
        "On 50 dev queries the tuned encoder reaches nDCG@10 0.600 and the aligned encoder 0.650, "
        "below the base encoder's 0.700."
    )


def test_figures_that_round_alike_are_told_apart():
    """'0.700 is below 0.700' reads like a bug."""
    assert "0.70001, below the base encoder's 0.70002" in decide(means(0.70002), {"tuned": means(0.70001)}).reason
    assert "0.7003, above the tuned encoder's 0.7002 and above the base" in among(0.5, 0.7002, 0.7003).reason


def test_without_dev_queries_nothing_ships():
    decision = decide(None, {"tuned": None, "aligned": None})
    assert not decision.ships and decision.chosen == "base" and "no judged dev query" in decision.reason


def test_dev_queries_that_nobody_can_answer_prove_nothing():
    decision = decide(means(0.0, 3, 3), {"tuned": means(0.0, 3, 3), "aligned": means(0.0, 3, 3)})
    assert not decision.ships and decision.chosen == "base" and "relevant passage" in decision.reason


def test_figures_over_different_queries_are_not_compared():
    with pytest.raises(ValueError, match="50 dev queries but aligned on 49"):
        decide(means(0.6), {"tuned": means(0.7), "aligned": means(0.7, queries=49)})


def test_a_run_without_a_trained_encoder_is_refused():
    with pytest.raises(ValueError, match="no trained encoder"):
        decide(means(0.6), {})
