"""Stage 1 on Ray Train: what it writes, when it stops, and how it fails."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.errors import RayrieverError
from pipeline.progress import Silent
from pipeline.stage import StageContext
from pipeline.training import distill
from pipeline.training.bi_encoder import BiEncoder
from pipeline.training.dev import DevSet, dev_score, dev_set
from pipeline.training.fit import metrics_schema
from pipeline.training.step import FIGURES
from tests.training.trained import TrainingShelf

INPUTS = ("corpus", "queries", "synthesis")

# Adapters start with random weights, which must be the same whatever the workers.
COMMON = {"epochs": 3, "lora_rank": 4}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, ray_cluster: None) -> TrainingShelf:
    return TrainingShelf(tmp_path_factory.mktemp("fit"), tiny_encoder, distill=COMMON)


@pytest.fixture(scope="module")
def trained(shelf: TrainingShelf) -> tuple[Artifact, list[str]]:
    """A training after one that broke under the same key, and over a list of checkpoints that a kill has torn."""
    shelf.change(distill={"learning_rate": 1e30})
    with pytest.raises(RayrieverError) as broken:
        shelf.hear("distill", distill.run, INPUTS)
    text = str(broken.value)
    assert text.startswith("distill: the loss or its gradient is not finite at step ")
    assert text.endswith("Lower distill.learning_rate.") and "queries q" in text
    training = Path(shelf.recipe.workspace, "training", "0")
    assert not training.exists()
    training.mkdir(parents=True)
    (training / "checkpoint_manager_snapshot.json").write_text('{"ray_version": "2.60')
    shelf.change(distill={"learning_rate": 1e-3})
    return shelf.hear("distill", distill.run, INPUTS)


def metrics(artifact: Artifact) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = artifact.table("metrics").to_pylist()
    return rows


def test_every_step_leaves_a_row_of_finite_figures(trained: tuple[Artifact, list[str]]):
    rows = metrics(trained[0])  # nine queries in batches of four: the last, of one row, joins the one before
    assert trained[0].table("metrics").schema == metrics_schema(FIGURES)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in rows] == [0, 0, 1, 1, 2, 2]
    rates = [1, 5 / 5, 4 / 5, 3 / 5, 2 / 5, 1 / 5]  # one step of warm-up
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3 * rate for rate in rates])
    for row in rows:
        assert all(math.isfinite(row[name]) for name in ("loss", "gradient_norm", "tokens_per_second"))
        assert -1 <= row["cosine_labelled"] <= 1
    assert all(rows[n]["cosine_synthetic"] or rows[n + 1]["cosine_synthetic"] for n in (0, 2, 4)), "one in each epoch"


def test_curve_and_model_are_those_of_the_best_dev_evaluation(
    shelf: TrainingShelf, trained: tuple[Artifact, list[str]]
):
    artifact, messages = trained
    curve = artifact.table("curve").to_pylist()
    rows = metrics(artifact)
    assert [point["step"] for point in curve] == [0, 2, 4, 6]
    assert curve[0]["loss"] is None
    assert curve[1]["loss"] == pytest.approx((rows[0]["loss"] + rows[1]["loss"]) / 2)
    outcomes = artifact.manifest.outcomes
    best = max(curve[1:], key=lambda point: (point["dev_ndcg_at_10"], point["step"]))
    assert outcomes["chosen_step"] == best["step"] and outcomes["steps"] == 6
    assert outcomes["examples"] == outcomes["examples_with_label"] == 9
    assert outcomes["examples_with_synthetic_positive"] == 1 and outcomes["examples_with_synthetic_negative"] == 2
    model = SentenceTransformer(str(artifact.directory("model")), device="cpu")
    assert dev_score(BiEncoder(model, 64, "float32"), _dev(shelf)) == pytest.approx(best["dev_ndcg_at_10"])
    assert f"step {best['step']}: dev nDCG@10 {best['dev_ndcg_at_10']:.4f}" in messages


def _dev(shelf: TrainingShelf) -> DevSet:
    out = ArtifactWriter(shelf.workspace, "dev", "0")
    found = dev_set(StageContext(shelf.recipe, shelf.finished, out, shelf.workspace, Silent()), 10)
    assert found is not None
    return found


def test_nothing_is_left_but_the_artifact_and_what_was_torn_is_told(
    shelf: TrainingShelf, trained: tuple[Artifact, list[str]]
):
    assert "the list of checkpoints is torn: training starts anew" in trained[1]
    assert not Path(shelf.recipe.workspace, "training", "0").exists()


def test_steps_are_logged_for_people_to_watch(shelf: TrainingShelf, trained: tuple[Artifact, list[str]]):
    folder = Path(shelf.recipe.workspace, "logs", "distill-0")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    expected = [{k: v for k, v in row.items() if v is not None} for row in metrics(trained[0])]
    assert rows[-6:] == expected
    assert any(path.stat().st_size > 500 for path in folder.glob("events.out.tfevents.*"))


def test_two_workers_make_the_steps_of_one(tmp_path: Path, tiny_encoder: Path, trained: tuple[Artifact, list[str]]):
    """Negatives, gradients or examples that stay with their worker would train another encoder unseen."""
    shelf = TrainingShelf(tmp_path, tiny_encoder, distill=COMMON | {"workers": 2})
    rows = metrics(shelf.run("distill", distill.run, INPUTS))
    for row, expected in zip(rows, metrics(trained[0]), strict=True):
        assert [name for name in row if row[name] is None] == [name for name in row if expected[name] is None]
        for name in set(row) - {"tokens_per_second"} - {name for name in row if row[name] is None}:
            # Sums in another order, amplified by AdamW's division where gradients are small.
            assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), (row["step"], name)


def test_fewer_workers_than_asked_for_make_the_same_steps(
    tmp_path: Path, tiny_encoder: Path, trained: tuple[Artifact, list[str]]
):
    """Where nodes are lost, batches cut by the workers that are left would be another training."""
    values = {"workers": 2, "min_workers": 1, "cpus_per_worker": 3}  # of the cluster's 4 CPUs: one worker fits
    shelf = TrainingShelf(tmp_path, tiny_encoder, distill=COMMON | values)
    rows = metrics(shelf.run("distill", distill.run, INPUTS))
    losses = [row["loss"] for row in metrics(trained[0])]
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=1e-3)


def test_training_without_progress_on_dev_stops(tmp_path: Path, tiny_encoder: Path, ray_cluster: None):
    """With two workers that share the weights: one that went on alone would wait for ever."""
    values = {"epochs": 9, "learning_rate": 1e-12, "patience": 2, "workers": 2, "sharded": True, "lora_rank": 2}
    shelf = TrainingShelf(tmp_path, tiny_encoder, distill=values)
    artifact = shelf.run("distill", distill.run, INPUTS)
    assert [point["step"] for point in artifact.table("curve").to_pylist()] == [0, 2, 4, 6]
    assert len(metrics(artifact)) == artifact.manifest.outcomes["steps"] == 6
    released = SentenceTransformer(str(artifact.directory("model")), device="cpu")
    before = SentenceTransformer(shelf.recipe.encoder.model, device="cpu")
    texts = ["what is dough", "what is salt"]
    assert torch.allclose(torch.tensor(released.encode(texts)), torch.tensor(before.encode(texts)), atol=1e-4)
