"""Every stage in order on real Ray, with a real server and a small real encoder."""

import json
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from pipeline.evaluation.report import Report
from pipeline.evaluation.stage import systems
from pipeline.live import search
from pipeline.recipe import Recipe
from pipeline.runner import finished_artifacts, plan, run
from pipeline.stages import stages_of
from pipeline.trec import from_run
from pipeline.workspace import Workspace
from tests.small_run import Recorder, small_recipe, write_corpus, write_like_a_model


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path, chat_server, ray_cluster, monkeypatch) -> Recipe:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    chat_server.reply = write_like_a_model
    write_corpus(tmp_path)
    return small_recipe(tmp_path, tiny_encoder, chat_server.url)


def run_recorded(recipe: Recipe, **bounds: str) -> tuple[dict, Recorder]:
    recorder = Recorder()
    return run(recipe, recorder, **bounds), recorder


def test_whole_run_then_nothing_then_only_what_changed(recipe: Recipe, chat_server, tmp_path: Path):
    finished, recorder = run_recorded(recipe)
    names = [stage.name for stage in stages_of(recipe)]
    assert recorder.ran == names
    asked = chat_server.total
    assert asked > 40
    _check_artifacts(finished, tmp_path, asked)

    again, recorder = run_recorded(recipe)
    assert recorder.ran == [] and recorder.kept == names
    assert chat_server.total == asked
    assert again["evaluate"].manifest == finished["evaluate"].manifest

    resharded = recipe.model_copy(update={"index": recipe.index.model_copy(update={"shards": 3})})
    other, recorder = run_recorded(resharded)
    assert recorder.ran == ["index_base", "index_tuned", "evaluate"]
    assert chat_server.total == asked
    assert other["evaluate"].table("hits").equals(finished["evaluate"].table("hits"))

    before = finished["synthesis"].table("synthesis")
    forced, recorder = run_recorded(recipe, start="synthesis", until="synthesis")
    assert recorder.ran == ["synthesis"]
    assert chat_server.total == asked, "answers in the store were asked for again"
    assert forced["synthesis"].table("synthesis").equals(before)
    _, recorder = run_recorded(recipe)
    assert recorder.ran == ["distill", "encode_tuned", "index_tuned", "evaluate"], "made from a replaced artifact"

    found = search(recipe, finished_artifacts(recipe, Workspace(recipe.workspace)), ["moon in stars"], top_k=4)
    assert [len(hits[0]) for hits in found.values()] == [4, 4]


def _check_artifacts(finished: dict, folder: Path, asked: int) -> None:
    manifest = finished["synthesis"].manifest
    outcomes = manifest.outcomes
    assert manifest.llm["requests"] == 4 * 16 + outcomes["verdict_retried"], "answers that the stage has used"
    assert manifest.llm_foreseen["requests"] == 4 * 16
    assert manifest.llm["tokens_out"] > 0 < manifest.llm_foreseen["tokens_out"]
    assert finished["encode_base"].manifest.llm == finished["encode_base"].manifest.llm_foreseen == {}
    assert outcomes["positive_ok"] == 16
    assert sum(outcomes.get(f"positive_{o}", 0) for o in ("kept", "relabelled", "dropped")) == 16
    report = Report.from_json((folder / "workspace/report.json").read_text())
    assert [each.system for each in report.systems] == list(systems(finished))
    assert report.llm.requests_sent == report.llm.answered == asked
    (contrast,) = report.contrasts
    assert contrast.test is not None and contrast.test.queries > 5
    assert "# " in (folder / "workspace/report.md").read_text()
    release = json.loads((folder / "workspace/release.json").read_text())
    assert release["verdict"] == report.gate.verdict
    runs = list(finished["evaluate"].directory("report").glob("*.trec"))
    assert len(runs) == len(report.systems)
    assert all(from_run(path.read_text(), path.name).num_rows for path in runs)
    model = SentenceTransformer(str(finished["distill"].directory("model")), device="cpu")
    vectors = finished["encode_tuned"].table("vectors").to_pylist()
    texts = {
        row["passage_id"]: f"{row['title']} {row['text']}" for row in finished["corpus"].table("passages").to_pylist()
    }
    expected = model.encode_document([texts[row["passage_id"]] for row in vectors[:8]], normalize_embeddings=True)
    for row, vector in zip(vectors, expected, strict=False):
        assert sum(a * b for a, b in zip(row["vector"], vector, strict=True)) > 0.999
    splits = finished["queries"].table("queries").to_pylist()
    assert {row["split"] for row in splits} == {"train", "dev", "test"}
    assert not list((folder / "workspace/training").glob("*")), "checkpoints are left behind"


def test_two_workers_train_and_the_plan_knows_what_remains(recipe: Recipe):
    two = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"workers": 2, "epochs": 1})})
    finished, _ = run_recorded(two, until="distill")
    curve = finished["distill"].table("curve").to_pylist()
    assert curve[0]["step"] == 0 and curve[-1]["loss"] is not None
    actions = {step.stage.name: step.action for step in plan(two, Workspace(two.workspace))}
    assert [name for name, action in actions.items() if action == "run"] == ["encode_tuned", "index_tuned", "evaluate"]
