"""Whole ablations on real Ray with a tiny encoder: what runs, what is reused, and whether the figures are true."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from pipeline.ablation.arms import arms_of
from pipeline.ablation.result import Ablation
from pipeline.ablation.run import ablate
from pipeline.artifact import Artifact
from pipeline.cli import app
from pipeline.errors import RayrieverError
from pipeline.recipe import load_recipe
from pipeline.runner import finished_artifacts
from pipeline.workspace import Workspace
from tests.small_run import Recorder, write_corpus

SEEDS = [4, 9]
STAGE_1_ONLY = {"align": None, "preferences": None}
WARM = {**STAGE_1_ONLY, "distill.temperature": 0.3}
SHARED = ["corpus", "words", "queries", "synthesis", "encode_base", "index_base"]
STAGE_1 = ["distill", "encode_tuned", "index_tuned"]
STAGE_2 = ["preferences", "align", "encode_aligned", "index_aligned"]


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty passages, a given query for each of them, and recorded rankings; one dev query's passage is trained on."""
    write_corpus(tmp_path)
    passages = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "dev": [], "test": []}
    texts, rankings = [], []
    for number, passage in enumerate(passages):
        query_id, split = f"q{number:02d}", ("train", "dev", "train", "test")[number % 4]
        texts.append(json.dumps({"_id": query_id, "text": f"tell me of {passage['title'].split()[0]}"}))
        splits[split].append((query_id, passage["_id"]))
        others = [passages[(number + step) % len(passages)]["_id"] for step in (1, 2)]
        rankings.append(json.dumps({"query_id": query_id, "ranking": [passage["_id"], *others]}))
    splits["train"].append(("q99", splits["dev"][0][1]))
    texts.append(json.dumps({"_id": "q99", "text": "entirely different words"}))
    write_lines(tmp_path / "queries.jsonl", texts)
    write_lines(tmp_path / "rankings.jsonl", rankings)
    write_lines(tmp_path / "unfit.jsonl", [json.dumps({"query_id": "none", "ranking": ["x", "y"]})])
    for split, pairs in splits.items():
        write_lines(
            tmp_path / f"qrels/{split}.tsv", ["query-id\tcorpus-id\tscore", *(f"{q}\t{p}\t1" for q, p in pairs)]
        )
    return tmp_path


def write_recipe(folder: Path, encoder: Path, arms: dict[str, dict[str, Any]], **ablate: Any) -> Path:
    training = {"epochs": 1, "batch_size": 8, "learning_rate": 3e-3, "cpus_per_worker": 1, "dev_passages": 40}
    values = {
        "workspace": str(folder / "workspace"),
        "corpus": {"path": str(folder)},
        "queries": {"on_leak": "keep", "generate": 0},
        "synthesis": {"max_queries": 0},
        "llm": {"engine": "openai", "model": "none", "base_url": "http://127.0.0.1:9/v1"},
        "encoder": {"model": str(encoder), "cpus_per_actor": 1, "dtype": "float32"},
        "distill": training,
        "preferences": {"path": str(folder / "rankings.jsonl")},
        "align": training,
        "evaluate": {"resamples": 200},
        "ablate": {"seeds": SEEDS, "arms": arms, **ablate},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def run_recorded(path: Path, *chosen: str) -> tuple[Ablation, Recorder]:
    recorder = Recorder()
    return ablate(load_recipe(path), recorder, recorder.message, chosen), recorder


def finished(path: Path, arm: str, seed: int) -> dict[str, Artifact]:
    recipe = next(each for each in arms_of(load_recipe(path)) if each.name == arm).recipes[seed]
    return finished_artifacts(recipe, Workspace(recipe.workspace))


def brute_force(folder: Path, model: Path, split: str) -> dict[str, float]:
    """nDCG@10 with one relevant passage is 1 / log2(1 + rank); ranks from one matrix product."""
    encoder = SentenceTransformer(str(model), device="cpu")
    passages = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    queries = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").read_text().splitlines())}
    vectors = encoder.encode_document([f"{p['title']} {p['text']}" for p in passages], normalize_embeddings=True)
    found = {}
    for line in (folder / f"qrels/{split}.tsv").read_text().splitlines()[1:]:
        query_id, passage_id, _ = line.split("\t")
        scores = vectors @ encoder.encode_query([queries[query_id]], normalize_embeddings=True)[0]
        ranked = [passages[place]["_id"] for place in np.argsort(-scores)]
        rank = ranked.index(passage_id) + 1
        found[query_id] = 1 / math.log2(1 + rank) if rank <= 10 else 0.0
    return found


def test_two_arms_two_seeds_then_nothing_then_stage_2_and_failing_arms(folder: Path, tiny_encoder: Path, ray_cluster):
    path = write_recipe(folder, tiny_encoder, {"plain": STAGE_1_ONLY, "warm": WARM}, reference="plain")
    first, recorder = run_recorded(path, "plain")
    assert first.not_run == ("warm",) and [row.name for row in first.rows] == ["BM25", "base", "plain"]
    assert recorder.ran == [*SHARED, *STAGE_1, *STAGE_1]

    whole, recorder = run_recorded(path)
    assert recorder.ran == [*STAGE_1, *STAGE_1], "what arms share, or have finished, ran again"
    announced = [text for text in recorder.messages if text.startswith("arm ")]
    assert announced[-1] == "arm 2 of 2, warm, seed 9" and len(announced) == 4
    assert [row.name for row in whole.rows] == ["BM25", "base", "plain", "warm"]
    assert not whole.failed and [row.seeds for row in whole.rows] == [0, 0, 2, 2]
    _check_figures(whole, folder, path, tiny_encoder)

    stored = sorted((folder / "workspace/ablation").iterdir())
    times = [each.stat().st_mtime_ns for each in stored]
    assert len(stored) == 2 + 2 * len(SEEDS)
    again, recorder = run_recorded(path)
    assert recorder.ran == [] and again == whole
    assert [each.stat().st_mtime_ns for each in stored] == times, "searched again"
    assert Ablation.from_json((folder / "workspace/ablation.json").read_text()) == whole

    _check_stage_2_and_failing_arms(folder, tiny_encoder, whole)


def _check_figures(whole: Ablation, folder: Path, path: Path, encoder: Path) -> None:
    """Every mean once more, from the stored models."""
    rows = {row.name: row for row in whole.rows}
    assert [(each.queries, each.unseen) for each in whole.splits] == [(10, 9), (10, 10)]
    for split in ("dev", "test"):
        base = statistics.fmean(brute_force(folder, encoder, split).values())
        assert rows["base"].figures[split].mean == pytest.approx(base, abs=1e-6)
        for name in ("plain", "warm"):
            models = [finished(path, name, seed)["distill"].directory("model") for seed in SEEDS]
            by_seed = [brute_force(folder, model, split) for model in models]
            means = [statistics.fmean(values.values()) for values in by_seed]
            figures = rows[name].figures[split]
            assert figures.mean == pytest.approx(statistics.fmean(means), abs=1e-6)
            assert figures.deviation == pytest.approx(statistics.stdev(means), abs=1e-6)
            assert figures.to_base is not None
            assert figures.to_base.difference == pytest.approx(figures.mean - base, abs=1e-6)
            unseen = [value for values in by_seed for query_id, value in values.items() if query_id != "q01"]
            expected = figures.mean if split == "test" else statistics.fmean(unseen)
            assert figures.unseen == pytest.approx(expected, abs=1e-6)
        plain, warm = rows["plain"].figures[split], rows["warm"].figures[split]
        assert plain.to_reference is None and warm.to_reference is not None
        assert warm.to_reference.difference == pytest.approx(warm.mean - plain.mean)


def _check_stage_2_and_failing_arms(folder: Path, encoder: Path, whole: Ablation) -> None:
    """One arm fails in its first training, one after it; both come before the one that does not."""
    gone = {**STAGE_1_ONLY, "distill.datasets": [{"path": str(folder / "gone.jsonl")}]}
    arms = {"gone": gone, "half": {"preferences.path": str(folder / "unfit.jsonl")}, "full": {}}
    path = write_recipe(folder, encoder, arms, seeds=SEEDS[:1])
    result = CliRunner().invoke(app, ["ablate", str(path), "--json"])
    assert result.exit_code == 1, result.output
    found = Ablation.from_json(result.stdout)
    rows = {row.name: row for row in found.rows}
    assert list(rows) == ["BM25", "base", "gone", "half", "half + alignment", "full", "full + alignment"]
    assert rows["gone"].seeds == 0 and "gone.jsonl" in rows["gone"].errors[0]
    assert rows["half"].errors == () and rows["half"].figures == rows["full"].figures
    assert rows["full"].same_as == "half", "both arms have the very same first training"
    assert "unfit.jsonl" in rows["half + alignment"].errors[0] and not rows["half + alignment"].figures
    assert "gone.jsonl" in (folder / "workspace/ablation.md").read_text()
    for done in (rows["BM25"], rows["base"]):
        assert done.figures["dev"] == next(row for row in whole.rows if row.name == done.name).figures["dev"]
    for split in ("dev", "test"):
        aligned = brute_force(folder, finished(path, "full", SEEDS[0])["align"].directory("model"), split)
        figures = rows["full + alignment"].figures[split]
        assert figures.mean == pytest.approx(statistics.fmean(aligned.values()), abs=1e-6)
    seconds = [finished(path, "full", SEEDS[0])[stage].manifest.seconds for stage in ("distill", "align")]
    assert rows["full"].train_seconds == seconds[0] and rows["full + alignment"].train_seconds == sum(seconds)
    assert found.best in ("half", "full + alignment") and not rows["full + alignment"].errors
    shown = CliRunner().invoke(app, ["ablate", str(path), "--arm", "full"])
    assert shown.exit_code == 0 and f"Best on dev: {found.best} " in shown.stdout and "BM25" in shown.stdout
    assert "Not run: gone, half + alignment." in shown.stdout and "failed" not in shown.stdout


def test_an_unknown_key_or_arm_is_refused_before_anything_runs(folder: Path, tiny_encoder: Path):
    """The arm comes last: found out only when its turn comes, it would cost the trainings before it."""
    path = write_recipe(folder, tiny_encoder, {"full": {}, "wrong": {"distill.los": "infonce"}})
    result = CliRunner().invoke(app, ["ablate", str(path)])
    assert result.exit_code == 1 and "ablate.arms.wrong" in result.stderr and "did you mean 'loss'" in result.stderr
    path = write_recipe(folder, tiny_encoder, {"full": {}})
    with pytest.raises(RayrieverError, match="no arm 'other'; there are full"):
        run_recorded(path, "other")
    assert not (folder / "workspace").exists()
