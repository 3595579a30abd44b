"""Training tables from and to other trainers: what is recognised, what is refused, what comes back."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyarrow import fs
from typer.testing import CliRunner

from pipeline.artifact import ArtifactWriter
from pipeline.cli import app
from pipeline.errors import RayrieverError
from pipeline.records import TRAINING_EXAMPLE
from pipeline.training.examples import Example, to_table
from pipeline.training.exchange import (
    Written,
    read_examples,
    stored_examples,
    write_flagembedding,
    write_sentence_transformers,
)
from pipeline.training.layouts import short_sha
from pipeline.workspace import Workspace
from tests.artifacts import ABOUT

GRADED = Example(
    query_id="q1",
    query="why does bread rise",
    labelled_ids=("p1", "p2"),
    labelled=("yeast makes gas", "gas lifts dough"),
    mined_ids=("p3",),
    mined=("bread is sold",),
    candidate_ids=("p1", "p2", "p3"),
    candidates=("yeast makes gas", "gas lifts dough", "bread is sold"),
    grades=(3.0, 2.5, -1.0),
)
PLAIN = Example("q2", "what is a keel", ("p4",), ("a beam",), (), (), ("p5", "p6"), ("a sail", "a mast"))
SYNTHETIC = Example(
    "q3",
    "how far is the moon",
    ("p7",),
    ("far",),
    ("light takes a second",),
    ("the moon is round", "far"),
    ("p8",),
    ("the sun is farther",),
)


def jsonl(path: Path, rows: Iterable[object]) -> str:
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows), encoding="utf-8")
    return str(path)


def read(path: str) -> tuple[list[Example], list[tuple[str, int | None, str | None, str]]]:
    rejected: list[tuple[str, int | None, str | None, str]] = []
    examples = list(read_examples(path, lambda *row: rejected.append(row)))
    return examples, rejected


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


LAYOUTS: dict[str, dict[str, Any]] = {
    "FlagEmbedding": {
        "id": 7,
        "query": "q",
        "pos": ["a"],
        "neg": ["b", "c"],
        "pos_scores": [3],
        "neg_scores": [1, 0.5],
        "pos_id": ["pa"],
        "neg_id": [8, 9],
        "weight": 2,
        "prompt": "Represent this sentence",
        "type": "normal",
    },
    "plain": {
        "query_id": "7",
        "query": "q",
        "positives": ["a"],
        "negatives": ["b", "c"],
        "scores": [3, 1, 0.5],
        "weight": 2.0,
    },
    "sentence-transformers": {
        "query_id": "7",
        "anchor": "q",
        "positive": "a",
        "negative_10": "c",
        "negative_2": "b",
        "label": [3, 1, 0.5],
        "weight": 2.0,
    },
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
def test_every_layout_gives_the_same_example_from_every_file(name: str, ending: str, tmp_path: Path):
    """Scores that slip by one column would teach the encoder to prefer negatives."""
    row, path = LAYOUTS[name], tmp_path / f"table.{ending}"
    if ending == "parquet":
        values = {column: list(map(str, v)) if column == "neg_id" else v for column, v in row.items()}
        pq.write_table(pa.Table.from_pylist([values]), path)
    elif ending == "jsonl":
        jsonl(path, [row])
    else:
        path.write_bytes(gzip.compress(json.dumps(row).encode()))
    examples, rejected = read(str(path))
    ids = (("pa",), ("8", "9")) if name == "FlagEmbedding" else ((short_sha("a"),), (short_sha("b"), short_sha("c")))
    assert not rejected
    assert examples == [
        Example(
            query_id="7",
            query="q",
            labelled_ids=ids[0],
            labelled=("a",),
            mined_ids=ids[1],
            mined=("b", "c"),
            candidate_ids=ids[0] + ids[1],
            candidates=("a", "b", "c"),
            grades=(3.0, 1.0, 0.5),
            weight=2.0,
        )
    ]


def test_query_without_id_gets_one_from_its_text_and_scores_are_optional(tmp_path: Path):
    rows = [{"query": "q", "positive": "a", "negative": "b"}, {"query": "q", "positive": "c", "negative": None}]
    examples, _ = read(jsonl(tmp_path / "t.jsonl", rows))
    assert [e.query_id for e in examples] == [short_sha("q")] * 2
    assert [e.mined for e in examples] == [("b",), ()]
    assert not examples[0].candidates and not examples[0].grades


def test_broken_rows_are_rejected_with_line_and_reason(tmp_path: Path):
    good = {"query": "q", "pos": ["a"], "neg": ["b"]}
    rows = [
        {"pos": ["a"]},
        good,
        "{broken",
        {**good, "query": " "},
        {**good, "pos": []},
        {**good, "pos": "a"},
        {**good, "neg": ["b", 1], "id": "q9"},
        {**good, "pos_scores": [1], "neg_scores": [1, 2]},
        {**good, "pos_scores": [1]},
        {**good, "pos_scores": [True], "neg_scores": [1]},
        '{"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [NaN], "neg_scores": [1]}',
        {**good, "neg_id": ["x", "y"]},
        '{"query": "q", "pos": ["\\ud800"]}',
    ]
    examples, rejected = read(jsonl(tmp_path / "t.jsonl", rows))
    assert len(examples) == 1
    assert rejected == [
        ("t.jsonl", 1, None, 'no "query"'),
        ("t.jsonl", 3, None, "not a JSON object"),
        ("t.jsonl", 4, None, '"query" is empty'),
        ("t.jsonl", 5, None, "no positive"),
        ("t.jsonl", 6, None, '"pos" is not a list'),
        ("t.jsonl", 7, "q9", 'an element of "neg" is not text'),
        ("t.jsonl", 8, None, '"neg_scores" has 2 elements for 1 of neg'),
        ("t.jsonl", 9, None, '"neg_scores" has 0 elements for 1 of neg'),
        ("t.jsonl", 10, None, 'an element of "pos_scores" is not a finite number'),
        ("t.jsonl", 11, None, 'an element of "pos_scores" is not a finite number'),
        ("t.jsonl", 12, None, '"neg_id" has 2 elements for 1 of neg'),
        ("t.jsonl", 13, None, 'an element of "pos" holds half of a surrogate pair, which is no Unicode text'),
    ]


def test_pair_labels_are_not_taken_for_grades(tmp_path: Path):
    """A pair labelled 0 is a negative pair; reading it as a positive would train the encoder the wrong way."""
    _, rejected = read(jsonl(tmp_path / "t.jsonl", [{"anchor": "q", "positive": "a", "label": 0}]))
    assert [row[3] for row in rejected] == ['"label" is not a list']
    rows = [{"query": "q", "positive": "a", "negative": "b", "scores": [1, 2, 3]}]
    _, rejected = read(jsonl(tmp_path / "t.jsonl", rows))
    assert [row[3] for row in rejected] == ['"scores" has 3 elements for 2 of the positive and its negatives']


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_unknown_layout_names_what_there_is_and_what_is_known(ending: str, tmp_path: Path):
    path = tmp_path / f"t.{ending}"
    rows = [{"question": "q", "passage": "a"}] * 2
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        jsonl(path, rows)
    with pytest.raises(RayrieverError, match=r"question, passage(?s:.*)FlagEmbedding(?s:.*)sentence-transformers"):
        read(str(path))


def test_unreadable_files_are_named(tmp_path: Path):
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"query": "q", "pos": ["a"]}' * 99)[:-20])
    for name, reason in (
        ("t.parquet", "cannot be read"),
        ("t.jsonl.gz", "cannot be read to its end"),
        ("gone.jsonl", "no such file"),
        ("gone.parquet", "cannot be read"),
        ("t.csv", r"\.parquet"),
    ):
        with pytest.raises(RayrieverError, match=rf"{name}: .*{reason}"):
            read(str(tmp_path / name))


def test_reading_does_not_wait_for_the_end_of_the_file(tmp_path: Path):
    """A table larger than memory must come row by row."""
    row = json.dumps({"query": "q", "pos": ["a"]})
    path = jsonl(tmp_path / "t.jsonl", [row] * 100_000)
    examples = read_examples(path, lambda *row: None)
    next(examples)
    with open(path, "r+b") as file:
        file.truncate(len(row) * 60_000)
    assert sum(1 for _ in examples) < 70_000


def test_flagembedding_round_trip_keeps_ids_and_grades(tmp_path: Path):
    path = str(tmp_path / "below" / "out.jsonl")
    assert write_flagembedding([GRADED, PLAIN], path) == Written(2, 0, 0)
    assert read(path) == ([GRADED, PLAIN], [])
    assert [file.name for file in (tmp_path / "below").iterdir()] == ["out.jsonl"]


def test_synthetic_texts_are_exported_and_a_positive_never_among_negatives(tmp_path: Path):
    without = Example("q4", "q", negatives=("n",))
    assert write_flagembedding([SYNTHETIC, without], str(tmp_path / "o.jsonl")) == Written(1, 0, 1)
    (row,) = lines(tmp_path / "o.jsonl")
    assert row["pos"] == ["far", "light takes a second"]
    assert row["pos_id"] == ["p7", short_sha("light takes a second")]
    assert row["neg"] == ["the moon is round", "the sun is farther"]
    assert "pos_scores" not in row


def test_sentence_transformers_rows_have_equal_columns_and_no_id(tmp_path: Path):
    """The trainer encodes every column: an id column would be trained on, a missing negative would stop it."""
    unlabelled = Example("q4", "q", positives=("written",), negatives=("n1", "n2"))
    path = tmp_path / "out.jsonl"
    written = write_sentence_transformers(iter([GRADED, PLAIN, SYNTHETIC, unlabelled]), str(path))
    assert written == Written(5, 3, 0)
    assert lines(path) == [
        {"anchor": GRADED.query, "positive": "yeast makes gas", "negative_1": "bread is sold"},
        {"anchor": GRADED.query, "positive": "gas lifts dough", "negative_1": "bread is sold"},
        {"anchor": PLAIN.query, "positive": "a beam", "negative_1": "a sail"},
        {"anchor": SYNTHETIC.query, "positive": "far", "negative_1": "the moon is round"},
        {"anchor": "q", "positive": "written", "negative_1": "n1"},
    ]
    examples, rejected = read(str(path))
    assert [(e.query, e.labelled, e.mined) for e in examples[2:3]] == [(PLAIN.query, ("a beam",), ("a sail",))]
    assert len(examples) == 5 and not rejected
    assert write_sentence_transformers([GRADED, Example("q5", "r", ("p",), ("s",))], str(path)) == Written(3, 2, 0)
    assert all(list(row) == ["anchor", "positive"] for row in lines(path))
    assert write_sentence_transformers([], str(path)) == Written(0, 0, 0)


def test_datasets_and_the_trainer_accept_both_files(tmp_path: Path, tiny_encoder: Path):
    datasets = pytest.importorskip("datasets")
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    tables = {}
    for name, write in (("flag", write_flagembedding), ("st", write_sentence_transformers)):
        path = str(tmp_path / f"{name}.jsonl")
        write([GRADED, PLAIN], path)
        tables[name] = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert tables["flag"]["pos"][0] == list(GRADED.labelled) and tables["flag"]["pos_scores"][0] == [3.0, 2.5]
    assert tables["st"].column_names == ["anchor", "positive", "negative_1"]
    model = SentenceTransformer(str(tiny_encoder), device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=3,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=tables["st"], loss=MultipleNegativesRankingLoss(model)
    )
    assert trainer.train().global_step == 1


def test_failed_export_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    path.write_text("old")

    def failing() -> Iterable[Example]:
        yield PLAIN
        raise RuntimeError("the source broke")

    for write in (write_flagembedding, write_sentence_transformers):
        with pytest.raises(RuntimeError):
            write(failing(), str(path))
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "file").write_text("x")
    with pytest.raises(RayrieverError, match=r"export to .*below\.jsonl: cannot be finished"):
        write_flagembedding([PLAIN], str(tmp_path / "file" / "below.jsonl"))


def test_tables_in_a_bucket_read_and_write_like_local_ones(bucket: str):
    uri = f"s3://library/tables/out.jsonl.gz?{bucket}"
    write_flagembedding([GRADED, PLAIN], uri)
    assert read(uri)[0] == [GRADED, PLAIN]
    filesystem, path = fs.FileSystem.from_uri(f"s3://library/t.parquet?{bucket}")
    pq.write_table(pa.Table.from_pylist([LAYOUTS["plain"]]), path, filesystem=filesystem)
    assert read(f"s3://library/t.parquet?{bucket}")[0][0].grades == (3.0, 1.0, 0.5)


def test_export_streams_every_part_of_the_finished_stage(tmp_path: Path):
    """An export that stops after the first part would train the other trainer on less, silently."""
    from pipeline.recipe import Recipe
    from pipeline.runner import plan

    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "text": "a passage"}\n')
    values = {"workspace": str(tmp_path / "workspace"), "corpus": {"path": str(tmp_path / "corpus.jsonl")}}
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out.jsonl"
    recipe.write_text(yaml.safe_dump(values))
    runner = CliRunner()

    def export(*options: str) -> Any:
        return runner.invoke(app, ["export", str(recipe), "--out", str(out), *options])

    missing = export("--format", "flagembedding")
    assert missing.exit_code == 1 and "--until distill" in " ".join(missing.stderr.split())
    workspace = Workspace(values["workspace"])
    key = next(s.key for s in plan(Recipe.model_validate(values), workspace) if s.stage.name == "distill")
    writer = ArtifactWriter(workspace, "distill", key)
    writer.table("examples", [to_table([GRADED]), to_table([PLAIN, SYNTHETIC])], TRAINING_EXAMPLE)
    assert list(stored_examples(writer.commit(**ABOUT))) == [GRADED, PLAIN, SYNTHETIC]
    done = export("--format", "sentence-transformers", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"rows": 4, "negatives_left_out": 2, "queries_without_positive": 0}
    assert len(lines(out)) == 4
    assert export("--format", "flagembedding").exit_code == 0 and len(lines(out)) == 3
    wrong = export("--format", "csv")
    assert wrong.exit_code == 1 and "flagembedding, sentence-transformers" in " ".join(wrong.stderr.split())
