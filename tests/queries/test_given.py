"""Reading the user's queries and judgments."""

import gzip
import json
from pathlib import Path

import pytest

from pipeline.errors import RayrieverError
from pipeline.queries.given import read_given


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"_id": "q1", "text": "red"}, {"_id": "q2", "text": "blue"}, {"_id": "q3", "text": " "}]
    lines = [*map(json.dumps, rows), "{broken", json.dumps({"_id": "q1", "text": "again"})]
    (tmp_path / "queries.jsonl").write_text("\n".join(lines))
    (tmp_path / "qrels").mkdir()
    header = "query-id\tcorpus-id\tscore\n"
    (tmp_path / "qrels/train.tsv").write_text(f"{header}q1\td1\t2\nq1\tgone\t1\nq9\td1\t1\nq1\td2\tmuch\n")
    (tmp_path / "qrels/test.tsv").write_text(f"{header}q2\td2\t1\nq2\td1\t-1\n")
    return tmp_path


def read(folder: Path, known: dict[str, str] | None = None):
    rejected: list[tuple] = []
    queries = read_given(str(folder), known or {"d1": "d1", "d2": "d2"}, lambda *row: rejected.append(row))
    return {q.query_id: q for q in queries}, rejected


def test_splits_grades_and_every_fault_with_its_line(folder: Path):
    queries, rejected = read(folder)
    assert (queries["q1"].split, queries["q1"].grades) == ("train", {"d1": 2})
    assert (queries["q2"].split, queries["q2"].grades) == ("test", {"d2": 1, "d1": 0})
    assert [(source, line) for source, line, *_ in rejected] == [
        ("queries.jsonl", 3),
        ("queries.jsonl", 4),
        ("queries.jsonl", 5),
        ("qrels/train.tsv", 3),
        ("qrels/train.tsv", 4),
        ("qrels/train.tsv", 5),
    ]


def test_judgment_of_a_dropped_duplicate_moves_to_the_passage_that_stayed(folder: Path):
    queries, _ = read(folder, {"d1": "d1", "d2": "d1"})
    assert queries["q2"].grades == {"d1": 1}


def test_queries_without_judgments_train_without_labels(folder: Path):
    for path in (folder / "qrels").iterdir():
        path.unlink()
    queries, _ = read(folder)
    assert {q.split for q in queries.values()} == {"train"} and not queries["q1"].grades


def test_judgments_of_another_corpus_are_an_error_and_not_an_empty_evaluation(folder: Path):
    with pytest.raises(RayrieverError, match="belong to this corpus"):
        read(folder, {"other": "other"})


def test_compressed_queries_and_truncated_ones(folder: Path):
    content = (folder / "queries.jsonl").read_bytes()
    (folder / "queries.jsonl").unlink()
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress(content))
    assert len(read(folder)[0]) == 2
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress(content)[:-12])
    with pytest.raises(RayrieverError, match=r"queries.jsonl.gz: cannot be read"):
        read(folder)
