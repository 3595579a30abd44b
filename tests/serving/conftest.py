"""Published collections, one of them behind a running server."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
import pytest

from pipeline.collection.about import RUN_REPORT, collection_folder
from pipeline.recipe import Recipe, ScorerSection
from pipeline.scorer.load import load_scorer_model
from pipeline.workspace import Workspace
from tests.collection.small import publish_small, recipe_of
from tests.evaluation.test_report import REPORT
from tests.serving.local import Server, serving

KEY = "a-key-of-the-test-0001"


def with_report(recipe: Recipe) -> Recipe:
    """The same collection as if its run had been evaluated."""
    folder = collection_folder(Workspace(recipe.workspace))
    current = folder.current()
    with folder.scratch() as scratch:
        (scratch / "report").write_text(REPORT.to_json())
        report = folder.add(scratch / "report", f"reported-{RUN_REPORT}")
    folder.commit(replace(current, number=current.number + 1, extra={**current.extra, RUN_REPORT: report}))
    return recipe


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, ray_cluster: None) -> Recipe:
    """A workspace whose collection holds an encoder and a reranker; not to be changed."""
    folder = tmp_path_factory.mktemp("published")
    reranker = folder / "reranker"
    load_scorer_model(ScorerSection(model=str(tiny_encoder), max_tokens=64), seed=0).save(reranker)
    recipe = recipe_of(folder / "workspace", tiny_encoder)
    scorer = recipe.scorer.model_copy(update={"dtype": "float32"})
    serve = recipe.serve.model_copy(update={"reranker": str(reranker), "rerank_depth": 5})
    recipe = recipe.model_copy(update={"serve": serve, "scorer": scorer})
    publish_small(recipe)
    return recipe


@pytest.fixture(scope="session")
def server(published: Recipe) -> Iterator[Server]:
    """Shared by all tests that change nothing; asks for `KEY`."""
    with serving(published, [KEY]) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=30) as opened:
        yield opened


@pytest.fixture
def own(published: Recipe, tmp_path: Path) -> Callable[..., Recipe]:
    """A copy of the workspace that a test may change, with values of section serve."""

    def copied(**values: object) -> Recipe:
        target = tmp_path / "workspace"
        if not target.exists():
            shutil.copytree(published.workspace, target)
        serve = published.serve.model_copy(update=values)
        return published.model_copy(update={"workspace": str(target), "serve": serve})

    return copied
