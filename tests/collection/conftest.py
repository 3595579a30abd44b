"""A published collection."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.collection.about import collection_folder
from pipeline.collection.reader import CollectionReader
from pipeline.recipe import Recipe
from pipeline.sharded.folder import ShardFolder
from pipeline.workspace import Workspace
from tests.collection.small import FLAT, Counting, publish_small, recipe_of

_MADE: dict[str, Path] = {}


@pytest.fixture
def index() -> dict[str, object]:
    return FLAT


@pytest.fixture
def recipe(index: dict[str, object], tmp_path: Path, tiny_encoder: Path) -> Recipe:
    return recipe_of(tmp_path / "workspace", tiny_encoder, index)


@pytest.fixture
def encode(recipe: Recipe) -> Counting:
    return Counting(recipe)


@pytest.fixture
def folder(recipe: Recipe, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    """A published collection; made once for each kind of index, and copied."""
    kind = recipe.index.kind
    if kind not in _MADE:
        made = recipe.model_copy(update={"workspace": str(tmp_path_factory.mktemp("made"))})
        publish_small(made)
        _MADE[kind] = Path(made.workspace)
    shutil.copytree(_MADE[kind], recipe.workspace)
    return collection_folder(Workspace(recipe.workspace))


@pytest.fixture
def reader(folder: ShardFolder, recipe: Recipe) -> Iterator[CollectionReader]:
    with CollectionReader(folder, recipe.index) as reader:
        yield reader
