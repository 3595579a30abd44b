"""The key of the queries stage."""

from pathlib import Path

import pytest

from pipeline.queries.stage import external
from pipeline.recipe import Recipe


def test_downloading_a_collection_does_not_change_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Otherwise the second run of a beir: recipe would do everything again."""
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = Recipe.model_validate({"corpus": {"path": "beir:scifact"}})
    before = external(recipe)
    folder = tmp_path / ".cache/rayriever/beir/scifact"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text("{}")
    (folder / "qrels/train.tsv").write_text("")
    assert external(recipe) == before
