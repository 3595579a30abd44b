"""Positive-aware mining on rankings that a reader can check."""

import pytest

from pipeline.mining.negatives import mine, search_depth
from pipeline.rankings import Hit
from pipeline.recipe import NegativesSection

HITS = [Hit("a", 0.9), Hit("p", 0.8), Hit("b", 0.77), Hit("c", 0.76), Hit("d", 0.7), Hit("q", 0.6), Hit("e", 0.1)]


def mined(hits=HITS, positives=frozenset({"p"}), same=None, **section) -> list[tuple[str, int]]:
    negatives, _ = mine(hits, positives, same or {}, NegativesSection(**section))
    return [(negative.passage_id, negative.rank) for negative in negatives]


def test_share_rule_drops_what_scores_like_the_positive():
    """0.95 of 0.8 is 0.76: a (above the positive) and b are probably unlabelled positives, c just is not."""
    assert mined() == [("c", 3), ("d", 4), ("q", 5), ("e", 6)]


def test_margin_rule_alone_and_both_rules_together():
    assert mined(max_share_of_positive=None, margin=0.1) == [("d", 4), ("q", 5), ("e", 6)]
    assert mined(max_share_of_positive=0.95, margin=0.15) == [("q", 5), ("e", 6)]
    assert mined(max_share_of_positive=0.5, margin=0.0) == [("e", 6)]


def test_without_rules_everything_but_the_positive_is_mined():
    assert mined(max_share_of_positive=None) == [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("q", 5), ("e", 6)]


def test_worst_positive_sets_the_limit():
    """With the best positive's score as the limit, passages better than a labelled one would become negatives."""
    assert mined(positives={"p", "q"}) == [("e", 5)]


def test_positive_below_all_hits_leaves_no_negative():
    """Its score is unknown, but no hit scores less; forgetting it would apply the other positive's limit."""
    negatives, outcomes = mine(HITS, {"p", "unseen"}, {}, NegativesSection())
    assert negatives == []
    assert outcomes == {"queries_with_positive_below_hits": 1, "dropped_above_positive": 6}
    assert len(mined(positives={"p", "unseen"}, max_share_of_positive=None)) == 6


def test_share_of_a_negative_score_is_not_above_the_positive():
    hits = [Hit("a", -0.96), Hit("p", -1.0), Hit("b", -1.1)]
    assert mined(hits) == [("b", 2)]


def test_ranks_are_counted_without_the_positives_and_bound_the_choice():
    section = {"max_share_of_positive": None, "ranks": (2, 4)}
    assert mined(**section) == [("b", 2), ("c", 3), ("d", 4)]
    assert mined(per_query=2, **section) == [("b", 2), ("c", 3)]
    assert search_depth(NegativesSection(ranks=(2, 4)), positives=3) == 7


def test_search_that_went_deeper_changes_nothing():
    """Queries of a block share one depth; a query's negatives must not depend on its neighbours."""
    section = NegativesSection(ranks=(1, 3))
    positives = {"q"}
    assert mine(HITS, positives, {}, section) == mine(HITS[:4], positives, {}, section)
    assert mine(HITS, positives, {}, section)[0] == []


def test_near_duplicates_of_positives_and_of_better_hits_are_dropped():
    """A copy of the labelled passage as a negative pushes the query away from its own answer."""
    negatives, outcomes = mine(HITS, {"p"}, {"c": "p", "q": "d"}, NegativesSection())
    assert [negative.passage_id for negative in negatives] == ["d", "e"]
    assert outcomes["dropped_duplicates"] == 2
    assert outcomes["dropped_above_positive"] == 2


@pytest.mark.parametrize("ranks", [(0, 5), (5, 4), (1, 1001)])
def test_ranks_out_of_order_are_refused(ranks):
    with pytest.raises(ValueError, match="ranks must be"):
        NegativesSection(ranks=ranks)
