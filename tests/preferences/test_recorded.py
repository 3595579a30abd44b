"""Recorded rankings: what is taken from a line and why a line is set aside."""

import json
from pathlib import Path

import pytest

from pipeline.errors import RayrieverError
from pipeline.preferences.recorded import Corpus, RecordedRanking, read_rankings

CORPUS = Corpus(
    query_ids={"q1", "q2", "q3", "7"},
    known={"a": "a", "b": "b", "c": "c", "d": "d", "gone": "a", "8": "8"},
    representatives={"d": "c", "gone": "a"},
)


def read(path: Path, *lines: object):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    rejected: list[tuple] = []
    rankings, outcomes = read_rankings(str(path), CORPUS, lambda *row: rejected.append(row))
    return rankings, outcomes, rejected


def test_grades_and_plain_rankings_are_read_in_order_of_query(tmp_path: Path):
    rankings, outcomes, rejected = read(
        tmp_path / "r.jsonl",
        {"query_id": "q2", "ranking": ["b", "a"]},
        {"query_id": "q1", "ranking": ["a", "b", "c"], "grades": {"a": 3, "b": 0, "c": 0}},
        {"query_id": 7, "ranking": [8, "a"], "grades": None},
    )
    assert rankings == [
        RecordedRanking("7", ("8", "a"), (2.0, 1.0), graded=False),
        RecordedRanking("q1", ("a", "b", "c"), (3.0, 0.0, 0.0), graded=True),
        RecordedRanking("q2", ("b", "a"), (2.0, 1.0), graded=False),
    ]
    assert outcomes["rankings"] == 3 and not rejected


def test_rankings_of_other_queries_are_counted_and_no_fault(tmp_path: Path):
    """A file may cover dev, too; as faults they would stop the run."""
    rankings, outcomes, rejected = read(tmp_path / "r.jsonl", GOOD, {"query_id": "dev", "ranking": ["a", "b"]})
    assert [ranking.query_id for ranking in rankings] == ["q1"] and not rejected
    assert outcomes["rankings_no_train_query"] == 1 and outcomes["rankings_rows"] == 2


def test_pair_of_grade_zero_is_no_preference_and_equal_grades_above_follow_the_ranking():
    """Order among zeros means nothing; learnt, it would be noise in half of all pairs."""
    ranking = RecordedRanking("q", ("a", "b", "c", "d"), (2.0, 2.0, 0.0, 0.0), graded=True)
    assert [pair[:2] for pair in ranking.pairs() if pair[2]] == [
        ("a", "b"),
        ("a", "c"),
        ("a", "d"),
        ("b", "c"),
        ("b", "d"),
    ]
    assert [pair[:2] for pair in ranking.pairs() if not pair[2]] == [("c", "d")]
    assert all(pair[2] for pair in RecordedRanking("q", ("a", "b"), (2.0, 1.0), graded=False).pairs())


def test_pairs_of_nearly_equal_grades_can_be_left_undecided():
    """An LLM is sure that a hit is useless long before it is sure which of two good ones is better."""
    graded = RecordedRanking("q", ("a", "b", "c", "d"), (3.0, 2.0, 1.0, 0.0), graded=True)
    decided = [pair[:2] for pair in graded.pairs(min_grade_gap=2) if pair[2]]
    assert decided == [("a", "c"), ("a", "d"), ("b", "d")]
    assert not any(pair[2] for pair in RecordedRanking("q", ("a", "b"), (0.0, 0.0), graded=True).pairs(0))
    by_place = RecordedRanking("q", ("a", "b", "c"), (3.0, 2.0, 1.0), graded=False)
    assert [pair[:2] for pair in by_place.pairs(min_grade_gap=2) if pair[2]] == [("a", "c")]


GOOD = {"query_id": "q1", "ranking": ["a", "b"]}
FAULTS = [
    ("not json", "not a JSON object"),
    ([1, 2], "not a JSON object"),
    ({"ranking": ["a", "b"]}, 'no "query_id"'),
    ({"query_id": "q2"}, 'no "ranking"'),
    ({"query_id": "q2", "ranking": "ab"}, 'no "ranking"'),
    ({"query_id": "q2", "ranking": ["a", None]}, 'no "ranking"'),
    ('{"query_id": "\\ud800", "ranking": ["a", "b"]}', 'no "query_id"'),
    ('{"query_id": "q2", "ranking": ["a", "\\udfff"]}', 'no "ranking"'),
    ('{"query_id": "q2", "ranking": ["a", "b"], "grades": {"a": 1%s, "b": 0}}' % ("0" * 400), "'a' has no grade"),
    ({"query_id": "q1", "ranking": ["b", "a"]}, "ranked in an earlier line"),
    ({"query_id": "q2", "ranking": ["a", "b", "a"]}, "ranks 'a' more than once"),
    ({"query_id": "q2", "ranking": ["a", "b"], "grades": [1, 0]}, '"grades" is not an object'),
    ({"query_id": "q2", "ranking": ["a", "b"], "grades": {"a": 1}}, "'b' has no grade"),
    ({"query_id": "q2", "ranking": ["a", "b"], "grades": {"a": True, "b": 0}}, "'a' has no grade"),
    ({"query_id": "q2", "ranking": ["a", "b"], "grades": {"a": 1, "b": -1}}, "'b' has no grade"),
    ('{"query_id": "q2", "ranking": ["a", "b"], "grades": {"a": NaN, "b": 0}}', "'a' has no grade"),
    ({"query_id": "q2", "ranking": ["a", "b"], "grades": {"a": 1, "b": 2}}, "'b' has a higher grade"),
    ({"query_id": "q2", "ranking": ["a", "nowhere"]}, "fewer than two distinct passages"),
    ({"query_id": "q2", "ranking": ["c", "d"]}, "fewer than two distinct passages"),
]


@pytest.mark.parametrize(("line", "reason"), FAULTS)
def test_unusable_line_is_set_aside_with_its_number_and_reason(tmp_path: Path, line, reason):
    rankings, outcomes, rejected = read(tmp_path / "r.jsonl", GOOD, "", line)
    assert [ranking.query_id for ranking in rankings] == ["q1"]
    ((source, number, _, said),) = rejected
    assert source.endswith("r.jsonl") and number == 3 and reason in said
    assert outcomes["rankings_unusable"] == 1
    assert outcomes["passages_unknown"] == outcomes["near_duplicates_removed"] == 0, "counted for a line nobody uses"


def test_unknown_passages_and_near_duplicates_leave_the_rest_of_a_ranking(tmp_path: Path):
    """d repeats c, and 'gone' was dropped from the corpus in favour of a."""
    grades = {"gone": 3, "nowhere": 2, "c": 1, "d": 1, "a": 0}
    rankings, outcomes, rejected = read(
        tmp_path / "r.jsonl",
        {"query_id": "q1", "ranking": list(grades), "grades": grades},
        {"query_id": "q2", "ranking": list(grades)},
    )
    assert [(r.passage_ids, r.grades) for r in rankings] == [(("a", "c"), (3.0, 1.0)), (("a", "c"), (2.0, 1.0))]
    assert outcomes == {"rankings_rows": 2, "rankings": 2, "passages_unknown": 2, "near_duplicates_removed": 4}
    assert not rejected


def test_missing_file_is_a_message(tmp_path: Path):
    with pytest.raises(RayrieverError, match="there is no such file"):
        read_rankings(str(tmp_path / "absent.jsonl"), CORPUS, lambda *row: None)
