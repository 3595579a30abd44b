"""Reciprocal rank fusion."""

import itertools

import pytest

from pipeline.evaluation.fusion import fuse, fuse_all
from pipeline.rankings import Hit


def ranking(*passage_ids: str) -> list[Hit]:
    return [Hit(passage_id, -float(place)) for place, passage_id in enumerate(passage_ids)]


def test_ranks_count_from_one():
    """Counting from 0 gives the first place 1/60: close enough to go unseen, no longer the method."""
    fused = fuse([ranking("a", "b"), ranking("b", "c")], rrf_k=60, top_k=10)
    assert fused == [Hit("b", 1 / 62 + 1 / 61), Hit("a", 1 / 61), Hit("c", 1 / 62)]


def test_scores_of_the_systems_do_not_matter():
    loud = [Hit("a", 1e6), Hit("b", 1e5)]
    assert fuse([loud, ranking("b", "a")], 60, 10) == fuse([ranking("a", "b"), ranking("b", "a")], 60, 10)


def test_ties_are_ordered_by_id_however_the_systems_are_listed():
    """Passages a, b and c take the places 1, 2 and 3 once each; summed left to right, their scores differ."""
    systems = [ranking("a", "b", "c"), ranking("c", "a", "b"), ranking("b", "c", "a")]
    for order in itertools.permutations(systems):
        assert [hit.passage_id for hit in fuse(order, 5, 10)] == ["a", "b", "c"]
        assert [hit.passage_id for hit in fuse(order, 5, 2)] == ["a", "b"]


def test_a_passage_twice_in_one_ranking_is_refused():
    with pytest.raises(ValueError, match="twice"):
        fuse([ranking("a", "a")], 60, 10)


def test_a_query_found_by_one_system_only_is_kept():
    fused = fuse_all([{"q1": ranking("a")}, {"q2": ranking("b"), "q1": ranking("a")}], rrf_k=1, top_k=10)
    assert fused == {"q1": [Hit("a", 1.0)], "q2": [Hit("b", 0.5)]}
    assert list(fused) == ["q1", "q2"]
