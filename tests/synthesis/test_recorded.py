"""Recorded answers in place of LLM calls: which rows are used, and what becomes of the others."""

import gzip
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyarrow import fs

from pipeline.errors import RayrieverError
from pipeline.stage import Estimate
from pipeline.synthesis import stage

if TYPE_CHECKING:
    from tests.synthesis.conftest import Synthesis

ANSWER = {"cot": "first this, then that", "positive": "yeast makes gas", "negative": "bread is sold in shops"}


def test_every_verdict_has_the_outcome_that_the_policy_gives_it(synthesis: "Synthesis"):
    """A verdict that gets lost on import would attract the encoder to passages that failed."""
    rows = [
        {"query_id": "q1", **ANSWER, "verified": True},
        {"query_id": "q2", **ANSWER, "verified": False},
        {"query_id": "q3", **ANSWER},
        {"query_id": "q4", "cot": "a crop may have a record, too", "verified": True},
    ]
    path = synthesis.file(rows)
    found = synthesis.run(synthesis.recipe(path=path))
    assert {i: (row["verdict"], row["outcome"]) for i, row in found.rows.items()} == {
        "q1": ("yes", "kept"),
        "q2": ("no", "relabelled"),
        "q3": ("unverified", "kept"),
        "q4": ("absent", "dropped"),
    }
    assert found.rows["q1"]["decomposition"] == ANSWER["cot"] and found.rows["q1"]["positive"] == ANSWER["positive"]
    assert found.rows["q4"]["positive"] is None and found.rows["q4"]["negative"] is None
    for policy, outcome in (("drop", "dropped"), ("keep", "kept")):
        assert synthesis.run(synthesis.recipe(path=path, on_failure=policy)).rows["q2"]["outcome"] == outcome
    unverified = synthesis.run(synthesis.recipe(path=path, verify=False)).rows
    assert (unverified["q2"]["verdict"], unverified["q2"]["outcome"]) == ("unverified", "kept")


def test_broken_rows_are_set_aside_with_line_and_reason(synthesis: "Synthesis"):
    rows = [
        {"query_id": "q1", **ANSWER},
        "{broken",
        ANSWER,
        {"query_id": "q2", "verified": True},
        {"query_id": "q2", **ANSWER, "cot": "  "},
        {"query_id": "q1", **ANSWER},
        {"query_id": "q2", **ANSWER, "negative": ["text"]},
        {"query_id": "q2", **ANSWER, "verified": "yes"},
        {"query_id": "q2", **ANSWER, "query": "the query of another collection"},
        '{"query_id": "q2", "positive": "half \\ud800 a pair"}',
        {"query_id": True, **ANSWER},
        {"query_id": "q3", "cot": None, "positive": "the moon is far", "query": " how far  is the moon "},
    ]
    found = synthesis.run(synthesis.recipe(path=synthesis.file(rows)))
    assert sorted(found.rows) == ["q1", "q3"]
    assert found.quarantined == [
        (2, None, "not a JSON object"),
        (3, None, 'no "query_id"'),
        (4, "q2", 'none of "cot", "positive", "negative"'),
        (5, "q2", 'empty "cot"'),
        (6, "q1", "duplicate query_id (first in line 1)"),
        (7, "q2", '"negative" is not text'),
        (8, "q2", '"verified" is not true or false'),
        (9, "q2", '"query" is not the text of this query'),
        (10, "q2", '"positive" holds half of a surrogate pair, which is no Unicode text'),
        (11, None, '"query_id" is not text or a whole number'),
    ]
    assert found.outcomes["recorded_unusable"] == 10 and found.outcomes["recorded_rows"] == 12


def test_too_many_broken_rows_are_one_error_that_names_places(synthesis: "Synthesis"):
    rows: list[object] = [{"query_id": f"other-{n}", **ANSWER} for n in range(98)]
    path = synthesis.file([{"query_id": "q1", **ANSWER}, *rows, "{broken"])
    assert list(synthesis.run(synthesis.recipe(path=path, max_bad_share=0.01)).rows) == ["q1"]
    path = synthesis.file([{"query_id": "q1", **ANSWER}, *rows, "{broken", "[]"])
    with pytest.raises(RayrieverError, match=r"2 of 101 rows(?s:.*)answers.jsonl:100  not a JSON object") as raised:
        synthesis.run(synthesis.recipe(path=path, max_bad_share=0.01))
    assert "corpus.max_bad_share" in str(raised.value)


def test_rows_of_other_queries_are_counted_unless_there_are_no_others(synthesis: "Synthesis"):
    """A dev query in the table would be trained on; a file of another collection would train on nothing."""
    found = synthesis.run(synthesis.recipe(path=synthesis.file({"query_id": i, **ANSWER} for i in ("d1", "x", "q2"))))
    assert list(found.rows) == ["q2"] and not found.quarantined
    assert found.outcomes["recorded_no_train_query"] == 2
    assert found.outcomes["train_queries_without_record"] == 3
    with pytest.raises(RayrieverError, match=r"none of its 2 rows is about one of the 4 train queries, such as 'q1'"):
        synthesis.run(synthesis.recipe(path=synthesis.file({"query_id": i, **ANSWER} for i in ("d1", 1))))
    with pytest.raises(RayrieverError, match="none of its 0 rows"):
        synthesis.run(synthesis.recipe(path=synthesis.file([])))


def test_limit_is_spent_on_queries_that_have_a_record(synthesis: "Synthesis"):
    path = synthesis.file({"query_id": i, **ANSWER} for i in ("q1", "q3"))
    for seed in range(4):
        recipe = synthesis.recipe(path=path, max_queries=1).model_copy(update={"seed": seed})
        assert len(synthesis.run(recipe).rows) == 1
    assert len(synthesis.run(synthesis.recipe(path=path, max_queries=3)).rows) == 2
    assert not synthesis.run(synthesis.recipe(path=path, max_queries=0)).rows


def test_key_follows_the_file_and_not_the_model(synthesis: "Synthesis"):
    """A key that stays when the file changes would train on the old answers without a word."""
    path = synthesis.file([{"query_id": "q1", **ANSWER}])
    before = stage.external(synthesis.recipe(path=path))
    assert stage.external(synthesis.recipe({"model": "pypi:not-installed"}, path=path)) == before
    os.utime(path, ns=(0, Path(path).stat().st_mtime_ns + 1_000_000))
    touched = stage.external(synthesis.recipe(path=path))
    synthesis.file([{"query_id": "q1", **ANSWER}] * 2)
    longer = stage.external(synthesis.recipe(path=path))
    assert before != touched != longer != before
    assert stage.external(synthesis.recipe(path=path, max_queries=0)) is None


def test_missing_file_and_impossible_check_are_refused_before_anything_runs(synthesis: "Synthesis"):
    with pytest.raises(RayrieverError, match=r"synthesis.path .*gone.jsonl: there is no such file"):
        stage.external(synthesis.recipe(path=str(synthesis.folder / "gone.jsonl")))
    path = synthesis.file([{"query_id": "q1", **ANSWER}])
    with pytest.raises(RayrieverError, match="check_negatives"):
        stage.external(synthesis.recipe(path=path, check_negatives=True))


def test_recorded_answers_cost_no_request_and_checked_negatives_one_each(synthesis: "Synthesis"):
    upstream = {"corpus": Estimate(rows=100, disk_bytes=0), "queries": Estimate(rows=100, disk_bytes=0)}
    recorded = stage.estimate(synthesis.recipe(path=synthesis.file([]), max_queries=30), upstream)
    assert (recorded.rows, recorded.llm_requests, recorded.llm_tokens_in, recorded.llm_tokens_out) == (30, 0, 0, 0)
    plain, checked = (stage.estimate(synthesis.recipe(check_negatives=on), upstream) for on in (False, True))
    assert (plain.llm_requests, checked.llm_requests) == (400, 500)
    assert checked.llm_tokens_in > plain.llm_tokens_in


def test_compressed_file_in_a_bucket_reads_like_a_local_one(synthesis: "Synthesis", bucket: str):
    filesystem, path = fs.FileSystem.from_uri(f"s3://library/answers.jsonl.gz?{bucket}")
    content = "\n".join(json.dumps({"query_id": i, **ANSWER}) for i in ("q1", "q2"))
    with filesystem.open_output_stream(path, compression=None) as stream:
        stream.write(gzip.compress(content.encode()))
    recipe = synthesis.recipe(path=f"s3://library/answers.jsonl.gz?{bucket}")
    assert list(synthesis.run(recipe).rows) == ["q1", "q2"]
    assert stage.external(recipe)["recorded"][0] == "answers.jsonl.gz"
