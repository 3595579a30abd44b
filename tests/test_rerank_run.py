"""A whole run with a reranker: two sources of candidates, an LLM over HTTP as teacher, report and release."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation.report import Report
from pipeline.live import search
from pipeline.recipe import Recipe
from pipeline.runner import run
from tests.conftest import ChatServer
from tests.small_run import Recorder, recipe_values, write_corpus, write_like_a_model

RERANKER: dict[str, Any] = {
    "candidates": {"max_queries": 24, "list_size": 6, "floor": 1},
    "permutations": {"method": "listwise", "max_words": 40},
    "scorer": {"max_tokens": 64, "cpus_per_actor": 1},
    "rerank": {"batch_size": 8, "epochs": 1, "cpus_per_worker": 1, "dev_depth": 5, "learning_rate": 1e-3},
    "evaluate_reranker": {"depths": [5, 20, 2000]},
}


def recipe_of(folder: Path, encoder: Path, url: str, **sections: Any) -> Recipe:
    write_corpus(folder)
    values = recipe_values(folder, encoder, url) | RERANKER | sections
    values["scorer"] = values["scorer"] | {"model": str(encoder)}
    return Recipe.model_validate(values)


@pytest.mark.timeout(900)
def test_a_run_ends_with_a_judged_reranker_and_a_second_one_asks_nothing(
    tmp_path: Path, tiny_encoder: Path, chat_server: ChatServer, ray_cluster: None
):
    chat_server.reply = write_like_a_model
    recipe = recipe_of(tmp_path, tiny_encoder, chat_server.url)
    listener = Recorder()
    finished = run(recipe, listener)
    assert listener.ran[-5:] == ["candidates", "permutations", "rerank", "evaluate", "evaluate_reranker"]
    outcomes = finished["permutations"].manifest.outcomes
    assert outcomes["permutations_ok"] > 0 and outcomes["lists_listwise"] > 0
    workspace = Path(recipe.workspace)
    report = Report.from_json((workspace / "report.json").read_text())
    assert report.reranking is not None and report.reranking.sources == ("bm25", "dense")
    # A depth beyond the hits that there are is all of them.
    assert [row.depth for row in report.reranking.rows] == [5, 20, 100] * 3
    assert {training.encoder for training in report.trainings} == {"tuned", "reranker"}
    assert any(name.startswith("permutations: ") for name in report.llm.outcomes)
    shown = (workspace / "report.md").read_text()
    assert "## Reranker" in shown and report.reranking.gate.reason[:40] in shown
    released = json.loads((workspace / "release.json").read_text())
    assert released["chosen"] in ("base", "tuned")
    shipped = released["reranker"]
    assert (shipped["path"] is not None) == (shipped["verdict"] == "ship")
    if shipped["path"]:
        assert (workspace / shipped["path"] / "scorer.json").is_file()
    found = search(recipe, finished, ["what is dough", "what is mast"], 3)
    assert list(found) == ["base", "tuned", "reranked"] and [len(hits) for hits in found["reranked"]] == [3, 3]
    asked = chat_server.total
    again = Recorder()
    run(recipe, again)
    assert not again.ran and chat_server.total == asked
