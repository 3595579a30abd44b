"""Poor training data: what is left out is counted, what cannot be trained on is refused before any worker starts."""

import math
from pathlib import Path

import pytest

from pipeline.errors import RayrieverError
from pipeline.training import distill
from tests.training.trained import PASSAGES, TRAIN, TrainingShelf

INPUTS = ("corpus", "queries", "synthesis")
EMPTY = {"passage_id": "empty", "title": "", "text": " \n"}
LONG = {"passage_id": "long", "title": "on everything", "text": "word " * 500}  # the encoder reads 64 tokens


def test_rest_of_poor_data_is_trained_on(tmp_path: Path, tiny_encoder: Path, ray_cluster: None):
    shelf = TrainingShelf(tmp_path, tiny_encoder, distill={"epochs": 2, "batch_size": 100})
    shelf.corpus([*PASSAGES, EMPTY, LONG], {})
    judged = [("q0", "p00", 1), ("q1", "long", 1), ("q2", "empty", 1), ("q3", "p03", 0), ("q4", "gone", 1)]
    shelf.queries([*TRAIN[:5], {"query_id": "q5", "text": "why " * 300}], [*judged, ("q5", "p05", 1)])
    shelf.synthesis({"q2": ("kept", "", None), "q3": ("relabelled", "salt is wet", None)})
    artifact, messages = shelf.hear("distill", distill.run, INPUTS)

    assert artifact.table("examples")["query_id"].to_pylist() == ["q0", "q1", "q5"]
    outcomes = artifact.manifest.outcomes
    assert outcomes["examples_without_positive"] == 3, "an empty passage, a grade of 0, a passage that is not there"
    assert outcomes["examples"] == outcomes["examples_with_label"] == 3
    assert "3 queries are fewer than batch_size 100: batches shrink" in messages
    rows = artifact.table("metrics").to_pylist()
    assert len(rows) == outcomes["chosen_step"] == 2, "one step per epoch, and without dev queries the last is kept"
    assert all(math.isfinite(row["loss"]) and row["loss"] > 0 for row in rows)


@pytest.mark.parametrize(("queries", "workers"), [(1, 1), (0, 1), (2, 3)])
def test_too_few_queries_are_refused_with_their_number(queries: int, workers: int, tmp_path: Path, tiny_encoder: Path):
    shelf = TrainingShelf(tmp_path, tiny_encoder, distill={"workers": workers})
    shelf.queries(TRAIN, [(f"q{n}", f"p{n:02d}", 1) for n in range(queries)])
    shelf.synthesis({})
    with pytest.raises(RayrieverError, match=f"^distill: {queries} training queries with a positive; .* queries.gen"):
        shelf.run("distill", distill.run, INPUTS)


def test_table_with_fewer_rows_than_workers_is_refused(tmp_path: Path, tiny_encoder: Path):
    """All queries together are enough for the workers, but a batch is of one table."""
    table = tmp_path / "table.jsonl"
    table.write_text('{"query": "one", "positives": ["first"], "negatives": []}\n')
    values = {"workers": 2, "datasets": [{"path": str(table)}]}
    shelf = TrainingShelf(tmp_path, tiny_encoder, distill=values)
    with pytest.raises(RayrieverError, match=r"^distill: 1 training queries for 2 workers.* Lower distill.workers"):
        shelf.run("distill", distill.run, INPUTS)


def test_width_that_the_encoder_does_not_have_is_refused_at_once(tmp_path: Path, tiny_encoder: Path, ray_cluster: None):
    shelf = TrainingShelf(tmp_path, tiny_encoder, distill={"matryoshka": [16, 768]})
    with pytest.raises(RayrieverError, match=r"^distill.matryoshka: 768 is not from 1 to 32, the encoder's width\.$"):
        shelf.run("distill", distill.run, INPUTS)
    assert not Path(shelf.recipe.workspace, "training", "0").exists()
