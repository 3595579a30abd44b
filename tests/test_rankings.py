"""Rankings to tables and back."""

import pytest

from pipeline import records
from pipeline.rankings import Hit, best, from_table, to_table

RANKINGS = {"q2": [Hit("b", 2.0), Hit("a", 2.0)], "q1": [Hit("c", 0.5)], "q0": []}


def test_a_table_keeps_the_order_of_equal_scores():
    table = to_table("bm25", RANKINGS)
    assert table.schema == records.HIT
    assert table.to_pylist()[1] == {
        "system": "bm25",
        "query_id": "q2",
        "passage_id": "a",
        "rank": 2,
        "score": 2.0,
    }
    assert from_table(table, "bm25") == {"q2": RANKINGS["q2"], "q1": RANKINGS["q1"]}


def test_rows_in_any_order_are_read_by_rank():
    table = to_table("bm25", RANKINGS)
    assert from_table(table.take([2, 1, 0]), "bm25")["q2"] == RANKINGS["q2"]


def test_other_systems_and_deeper_hits_are_left_out():
    table = to_table("bm25", RANKINGS)
    assert from_table(table, "dense") == {}
    assert from_table(table, "bm25", depth=1)["q2"] == [Hit("b", 2.0)]


def test_a_system_without_hits_still_has_the_schema():
    assert to_table("bm25", {}).schema == records.HIT


def test_a_passage_ranked_twice_is_not_counted_twice():
    with pytest.raises(ValueError, match="ranks passage 'a' twice"):
        from_table(to_table("bm25", {"q": [Hit("a", 2.0), Hit("b", 1.5), Hit("a", 1.0)]}), "bm25")


def test_two_hits_of_one_rank_are_no_ranking():
    row = {"system": "s", "query_id": "q", "rank": 1, "score": 1.0}
    rows = [row | {"passage_id": "a"}, row | {"passage_id": "b"}]
    with pytest.raises(ValueError, match="two hits of rank 1"):
        from_table(records.HIT.empty_table().from_pylist(rows, schema=records.HIT), "s")


def test_best_breaks_ties_at_the_cut_by_id():
    assert best({"c": 1.0, "a": 1.0, "b": 1.0, "d": 2.0}, 2) == [Hit("d", 2.0), Hit("a", 1.0)]
