"""TREC run files."""

import pyarrow as pa
import pytest
import pytrec_eval

from pipeline import records
from pipeline.errors import RayrieverError
from pipeline.rankings import Hit, from_table, to_table
from pipeline.trec import from_run, to_run


def test_a_line_has_six_fields_and_the_tag_no_blank():
    hits = to_table("BM25 + base (RRF)", {"q1": [Hit("a", 0.5), Hit("b", 0.25)]})
    assert to_run(hits) == "q1 Q0 a 1 0.5 BM25_+_base_(RRF)\nq1 Q0 b 2 0.25 BM25_+_base_(RRF)\n"


def test_outsiders_find_our_order_where_scores_tie():
    """trec_eval sorts ties by descending id: figures outside would differ from those in the report."""
    ids = ["a", "c", "b", "d"]
    run = pytrec_eval.parse_run(to_run(to_table("s", {"q": [Hit(each, 0.1) for each in ids]})).splitlines())
    assert sorted(run["q"], key=lambda each: -run["q"][each]) == ids
    for place, relevant in enumerate(ids, start=1):
        evaluator = pytrec_eval.RelevanceEvaluator({"q": {relevant: 1}}, {"recip_rank"})
        assert evaluator.evaluate(run)["q"]["recip_rank"] == pytest.approx(1 / place)


def test_scores_apart_only_in_double_precision_stay_apart():
    """trec_eval reads scores in single precision, where 0.1 and 0.1 - 1e-12 are one number."""
    run = to_run(to_table("s", {"q": [Hit("a", 0.1), Hit("b", 0.1 - 1e-12), Hit("c", -0.0)]}))
    scores = pa.array([float(line.split()[4]) for line in run.splitlines()], type=pa.float32()).to_pylist()
    assert scores == sorted(set(scores), reverse=True) and scores[1] == pytest.approx(0.1)


def test_a_ranking_that_is_not_by_score_keeps_its_order():
    assert [line.split()[2] for line in to_run(to_table("s", {"q": [Hit("a", 1.0), Hit("b", 9.0)]})).splitlines()] == [
        "a",
        "b",
    ]
    assert from_run(to_run(to_table("s", {"q": [Hit("a", 1.0), Hit("b", 9.0)]})), "x")["score"].to_pylist()[1] < 1.0


@pytest.mark.parametrize("name", ["my notes.md#3", "50%", "a\tb", "a%20b", "größe", "a\u00a0b\u2028c", "http%3A//x"])
def test_ids_with_blanks_survive_a_round_trip(name: str):
    hits = to_table("s", {name: [Hit(name, 1.0)]})
    assert all(len(line.split()) == 6 for line in to_run(hits).splitlines())
    assert from_table(from_run(to_run(hits), "x"), "s") == {name: [Hit(name, 1.0)]}


def test_other_peoples_escapes_are_left_alone():
    assert from_run("q Q0 http%3A//x%2Fy 1 1.0 s", "x")["passage_id"].to_pylist() == ["http%3A//x%2Fy"]


def test_the_rank_column_gives_the_order():
    """Listwise rerankers write first-stage scores beside new ranks, and some count from 0."""
    table = from_run("q Q0 b 1 9.0 llm\r\nq Q0 a 0 1.0 llm\n\nq Q0 c 2 5.0 llm\n", "x")
    assert table.schema == records.HIT
    assert table["passage_id"].to_pylist() == ["a", "b", "c"] and table["rank"].to_pylist() == [1, 2, 3]


def test_several_systems_in_one_file_are_kept_apart():
    hits = pa.concat_tables([to_table("s", {"q": [Hit("a", 1.0)]}), to_table("t", {"q": [Hit("a", 2.0)]})])
    assert from_run(to_run(hits), "x") == hits


def test_an_empty_run_is_a_run():
    assert to_run(records.HIT.empty_table()) == "" and from_run("\n", "x").schema == records.HIT


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 a 1 1.0", r"runs/x\.trec:2: 5 fields"),
        ("q Q0 a b 1 1.0 tag", r"runs/x\.trec:2: 7 fields"),
        ("q Q0 b one 1.0 tag", r"runs/x\.trec:2: rank or score"),
        ("q Q0 a 2 1.0 tag", r"runs/x\.trec:2: passage 'a' is ranked twice"),
    ],
)
def test_a_broken_line_is_named(line: str, message: str):
    with pytest.raises(RayrieverError, match=message):
        from_run(f"q Q0 a 1 1.0 tag\n{line}\n", "runs/x.trec")


def test_a_score_that_is_no_number_is_not_written():
    with pytest.raises(ValueError, match="'a' is nan"):
        to_run(to_table("s", {"q": [Hit("a", float("nan"))]}))
