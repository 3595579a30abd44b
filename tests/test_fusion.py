"""Fusion by rank and by weighted scores."""

import itertools

import pytest

from pipeline.fusion import fuse_all, reciprocal_rank, weighted_sum
from pipeline.rankings import Hit


def ranking(*passage_ids: str) -> list[Hit]:
    return [Hit(passage_id, -float(place)) for place, passage_id in enumerate(passage_ids)]


def test_ranks_count_from_one():
    """Counting from 0 gives the first place 1/60: close enough to go unseen, no longer the method."""
    fused = reciprocal_rank([ranking("a", "b"), ranking("b", "c")], rrf_k=60, top_k=10)
    assert fused == [Hit("b", 1 / 62 + 1 / 61), Hit("a", 1 / 61), Hit("c", 1 / 62)]


def test_scores_of_the_systems_do_not_matter():
    loud = [Hit("a", 1e6), Hit("b", 1e5)]
    assert reciprocal_rank([loud, ranking("b", "a")], 60, 10) == reciprocal_rank(
        [ranking("a", "b"), ranking("b", "a")], 60, 10
    )


def test_ties_are_ordered_by_id_however_the_systems_are_listed():
    """Passages a, b and c take the places 1, 2 and 3 once each; summed left to right, their scores differ."""
    systems = [ranking("a", "b", "c"), ranking("c", "a", "b"), ranking("b", "c", "a")]
    for order in itertools.permutations(systems):
        assert [hit.passage_id for hit in reciprocal_rank(order, 5, 10)] == ["a", "b", "c"]
        assert [hit.passage_id for hit in reciprocal_rank(order, 5, 2)] == ["a", "b"]


def test_a_passage_twice_in_one_ranking_is_refused():
    with pytest.raises(ValueError, match="twice"):
        reciprocal_rank([ranking("a", "a")], 60, 10)


def test_a_query_found_by_one_system_only_is_kept():
    fused = fuse_all([{"q1": ranking("a")}, {"q2": ranking("b"), "q1": ranking("a")}], rrf_k=1, top_k=10)
    assert fused == {"q1": [Hit("a", 1.0)], "q2": [Hit("b", 0.5)]}
    assert list(fused) == ["q1", "q2"]


def ids(hits: list[Hit]) -> list[str]:
    return [hit.passage_id for hit in hits]


def test_fused_score_is_cosine_plus_the_weighted_share_of_bm25():
    fused = weighted_sum([Hit("a", 0.9), Hit("b", 0.7)], [Hit("b", 20.0), Hit("a", 5.0)], 0.4, 10)
    assert ids(fused) == ["b", "a"]
    assert [hit.score for hit in fused] == pytest.approx([0.7 + 0.4, 0.9 + 0.1])


def test_passage_that_only_bm25_found_gets_the_lowest_cosine_and_not_zero():
    """At zero it would rank below everything, and the words that only BM25 knows would teach nothing."""
    fused = weighted_sum([Hit("a", 0.6), Hit("b", 0.5)], [Hit("c", 10.0)], 0.4, 10)
    assert ids(fused) == ["c", "a", "b"]
    assert fused[0].score == pytest.approx(0.9)


def test_without_weight_or_words_the_order_is_the_encoder_s():
    dense = [Hit("b", 0.6), Hit("a", 0.6), Hit("c", 0.1)]
    assert ids(weighted_sum(dense, [Hit("c", 10.0)], 0.0, 10)) == ["a", "b", "c"]
    assert ids(weighted_sum(dense, [], 0.4, 10)) == ["a", "b", "c"]
