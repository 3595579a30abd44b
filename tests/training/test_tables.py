"""Tables of the user's own, and the teacher's lists, on their way into stage 1."""

import json
from pathlib import Path

import pytest

from pipeline import records
from pipeline.errors import RayrieverError
from pipeline.training import distill
from tests.training.trained import TrainingShelf

INPUTS = ("corpus", "queries", "synthesis")


def table(folder: Path, *rows: object) -> str:
    path = folder / "table.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


SCORED = {"query": "one", "positives": ["first"], "negatives": ["second"], "scores": [4.0, -2.0], "weight": 0.5}


def test_table_of_mostly_broken_rows_stops_and_names_them(tmp_path: Path, tiny_encoder: Path):
    """It would vanish from the training, and nobody would know that half of the data was never read."""
    path = table(tmp_path, SCORED, *[{"query": "two", "positives": []}] * 3)
    shelf = TrainingShelf(tmp_path, tiny_encoder, distill={"datasets": [{"path": path}]})
    with pytest.raises(RayrieverError) as raised:
        shelf.run("distill", distill.run, INPUTS)
    message = str(raised.value)
    assert message.startswith(f"distill.datasets {path}: 3 of 4 rows (75 %) cannot be used, more than max_bad_share")
    assert "table.jsonl:2  no positive" in message and "raise corpus.max_bad_share" in message


def test_scores_are_brought_to_the_scale_of_the_lists_and_weights_stay(
    tmp_path: Path, tiny_encoder: Path, ray_cluster: None
):
    """Divided by a temperature meant for cosines, a reranker's logits would leave its first passage all the mass."""
    datasets = [{"path": table(tmp_path, SCORED, SCORED | {"query": "two"}), "score_temperature": 2.0}]
    values = {"datasets": datasets, "epochs": 1, "teacher_temperature": 0.05}
    artifact = TrainingShelf(tmp_path, tiny_encoder, distill=values).run("distill", distill.run, INPUTS)
    rows = [row for row in artifact.table("examples").to_pylist() if row["query"] in ("one", "two")]
    assert [row["grades"] for row in rows] == [pytest.approx([0.1, -0.05])] * 2
    assert [row["weight"] for row in rows] == [0.5, 0.5]


def test_teacher_of_weight_zero_leaves_its_sentences_out(tmp_path: Path, tiny_encoder: Path, ray_cluster: None):
    """With nothing to learn from, their batches would have no documents and no gradient."""
    shelf = TrainingShelf(tmp_path, tiny_encoder, distill={"teacher_weight": 0, "epochs": 1})
    lists = [
        {"query_id": "q0", "kind": kind, "text": text, "passage_ids": ["p00", "p01"], "scores": [0.9, 0.1]}
        for kind, text in (("query", "what is dough"), ("positive", "dough rises slowly in the cold"))
    ]
    shelf._put("teach", taught=(lists, records.TAUGHT))
    artifact = shelf.run("distill", distill.run, (*INPUTS, "teach"))
    assert "dough rises slowly in the cold" not in artifact.table("examples")["query"].to_pylist()
    assert len(artifact.table("datasets")) == 1
