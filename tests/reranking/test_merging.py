"""Hits of several sources as one list: whose order, who is sure of a place, and where each passage came from."""

import random
from collections.abc import Mapping, Sequence
from fractions import Fraction

import pytest

from pipeline import records
from pipeline.rankings import Hit
from pipeline.reranking.merging import Candidate, Found, distinct, one_source, to_table, union

K = 60


def hits(ids: str, best: float = 9.0) -> list[Hit]:
    return [Hit(passage_id, best - rank) for rank, passage_id in enumerate(ids.split())]


def ids(candidates: Sequence[Candidate]) -> list[str]:
    return [each.passage_id for each in candidates]


def fused(lists: Mapping[str, Sequence[Hit]]) -> dict[str, Fraction]:
    """Reciprocal rank fusion in exact numbers, best first, equal ones by id."""
    sums: dict[str, Fraction] = {}
    for found in lists.values():
        for rank, hit in enumerate(found, start=1):
            sums[hit.passage_id] = sums.get(hit.passage_id, Fraction(0)) + Fraction(1, K + rank)
    return dict(sorted(sums.items(), key=lambda each: (-each[1], each[0])))


def some_lists(seed: int) -> dict[str, list[Hit]]:
    """Lists of unequal length, also none at all, whose scores have different units."""
    draw = random.Random(seed)
    every = [f"p{number:02d}" for number in range(20)]
    return {
        source: hits(" ".join(draw.sample(every, draw.randint(0, 12))), best)
        for source, best in (("bm25", 30.0), ("sparse", 1.0), ("dense", 0.9), ("cross_encoder", -4.0))
    }


@pytest.mark.parametrize("seed", range(20))
def test_without_floor_the_list_is_the_head_of_the_fused_order(seed: int):
    """Scores of different units must count for nothing."""
    lists = some_lists(seed)
    expected = fused(lists)
    merged = union(lists, 7, 0, K)
    assert ids(merged) == list(expected)[:7]
    assert [each.score for each in merged] == pytest.approx([float(expected[i]) for i in ids(merged)])


@pytest.mark.parametrize("seed", range(20))
def test_best_hits_of_every_source_are_there_and_the_rest_is_the_best_of_the_others(seed: int):
    lists = some_lists(seed)
    expected = list(fused(lists))
    merged = ids(union(lists, 9, 2, K))
    assured = {hit.passage_id for found in lists.values() for hit in found[:2]}
    assert assured <= set(merged) and len(merged) == min(9, len(expected))
    others = [passage_id for passage_id in expected if passage_id not in assured]
    assert [passage_id for passage_id in merged if passage_id not in assured] == others[: 9 - len(assured)]
    assert merged == sorted(merged, key=expected.index), "the floor gives a place, not a rank"


def test_source_that_disagrees_with_all_others_keeps_its_places():
    """Two that agree would fill every list, and the third would add nothing to what is learnt."""
    same = "a b c d e"
    lists = {"bm25": hits(same), "sparse": hits(same), "dense": hits("v w x y z")}
    assert ids(union(lists, 4, 0, K)) == ["a", "b", "c", "d"]
    assert ids(union(lists, 4, 1, K)) == ["a", "b", "c", "v"]
    assert ids(union({"bm25": hits("a b c"), "dense": hits("a b x")}, 3, 1, K)) == ["a", "b", "c"], "c before x by id"


def test_floors_of_many_sources_never_make_a_list_too_long():
    """A later round adds a source that the recipe's floor was not checked with."""
    lists = {name: hits(" ".join(f"{name}{n}" for n in range(5))) for name in "abc"}
    assert ids(union(lists, 5, 3, K)) == ["a0", "b0", "c0", "a1", "b1"]
    assert len(union(lists, 2, 3, K)) == 2


@pytest.mark.parametrize("seed", range(10))
def test_order_in_which_sources_are_named_changes_no_list(seed: int):
    """Ties broken by it would give other lists, and other answers to pay for, to the same recipe."""
    lists = some_lists(seed)
    merged = union(lists, 8, 1, K)
    for turn in range(1, 4):
        names = [*list(lists)[turn:], *list(lists)[:turn]]
        turned = union({name: lists[name] for name in names}, 8, 1, K)
        assert [(each.passage_id, each.score) for each in turned] == [(each.passage_id, each.score) for each in merged]
        for one, other in zip(turned, merged, strict=True):
            assert set(one.found) == set(other.found)
            assert [each.source for each in one.found] == [name for name in names if name in _sources(other)]


def _sources(candidate: Candidate) -> set[str]:
    return {each.source for each in candidate.found}


def test_every_passage_says_who_found_it_where():
    lists = {"bm25": hits("a b", 8.0), "dense": hits("b c", 0.5)}
    assert {each.passage_id: each.found for each in union(lists, 3, 0, K)} == {
        "a": (Found("bm25", 1, 8.0),),
        "b": (Found("bm25", 2, 7.0), Found("dense", 1, 0.5)),
        "c": (Found("dense", 2, -0.5),),
    }


def test_near_duplicates_are_one_passage_under_one_name():
    """Two copies in a list teach that one text is better than itself; two names for them hide that sources agree."""
    same = {"copy": "first", "other copy": "first"}
    lexical = distinct([Hit("copy", 5.0), Hit("x", 4.0), Hit("first", 3.0), Hit("other copy", 2.0)], same)
    dense = distinct([Hit("y", 0.9), Hit("first", 0.8)], same)
    assert lexical == [Hit("first", 5.0), Hit("x", 4.0)] and dense == [Hit("y", 0.9), Hit("first", 0.8)]
    (best, *others) = union({"bm25": lexical, "dense": dense}, 10, 0, K)
    assert best == Candidate("first", best.score, (Found("bm25", 1, 5.0), Found("dense", 2, 0.8)))
    assert sorted(ids(others)) == ["x", "y"]
    assert distinct([], same) == [] and distinct([Hit("z", 1.0)], {}) == [Hit("z", 1.0)]


def test_query_that_nobody_finds_anything_for_has_an_empty_list():
    assert union({}, 5, 1, K) == union({"bm25": [], "dense": []}, 5, 1, K) == one_source("bm25", [], 5) == []
    assert ids(union({"bm25": [], "dense": hits("a b c")}, 2, 1, K)) == ["a", "b"]


def test_list_of_one_source_has_its_order_and_its_scores():
    assert one_source("dense", hits("a b c", 0.5), 2) == [
        Candidate("a", 0.5, (Found("dense", 1, 0.5),)),
        Candidate("b", -0.5, (Found("dense", 2, -0.5),)),
    ]


def test_table_counts_ranks_of_each_query_from_one():
    merged = union({"bm25": hits("a b", 8.0), "dense": hits("b", 0.5)}, 3, 0, K)
    table = to_table([("q1", merged), ("none", []), ("q2", one_source("dense", hits("c", 0.5), 3))])
    assert table.schema == records.CANDIDATE
    rows = table.to_pylist()
    assert [(row["query_id"], row["passage_id"], row["rank"]) for row in rows] == [
        ("q1", "b", 1),
        ("q1", "a", 2),
        ("q2", "c", 1),
    ]
    assert (rows[0]["sources"], rows[0]["ranks"], rows[0]["scores"]) == (["bm25", "dense"], [2, 1], [7.0, 0.5])
    assert to_table([]).schema == records.CANDIDATE
