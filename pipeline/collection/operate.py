"""Publish a recipe's run, and change its collection from files and ids with the encoder that it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.artifact import Artifact
from pipeline.collection import change
from pipeline.collection.about import collection_folder
from pipeline.collection.models import ENCODER, fetch_model
from pipeline.collection.publish import publish, released_encoder
from pipeline.corpus.passages import passage_table
from pipeline.corpus.readers import read
from pipeline.corpus.rows import BadRow, Row
from pipeline.corpus.sources import locate
from pipeline.encoder.systems import DenseSystem, dense_systems
from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe
from pipeline.sharded.folder import Generation, ShardFolder
from pipeline.workspace import Workspace

_SHOWN = 10


def opened(recipe: Recipe, name: str) -> ShardFolder:
    """The collection of that name. Raises RayrieverError where none is published."""
    folder = collection_folder(Workspace(recipe.workspace), name)
    if not folder.generations():
        raise RayrieverError(f"collection {name}: there is none. First: rayriever collection publish RECIPE.")
    return folder


def system_of(finished: Mapping[str, Artifact], encoder: str | None) -> DenseSystem:
    """The encoder of that name, or the one that was trained last. Raises RayrieverError where it is not finished."""
    systems = {system.name: system for system in dense_systems(finished)}
    if not systems:
        raise RayrieverError("no index is finished. First: rayriever run RECIPE --until index_base")
    name = encoder or list(systems)[-1]
    if name not in systems:
        raise RayrieverError(f"there is no index of the encoder {name!r}, only of {', '.join(systems)}.")
    return systems[name]


def publish_run(recipe: Recipe, finished: Mapping[str, Artifact], name: str, encoder: str | None = None) -> Generation:
    """Publish with the encoder of that name, or the run's choice. Raises RayrieverError as `publish` does."""
    return publish(recipe, finished, system_of(finished, encoder or released_encoder(finished)), name)


def add_file(recipe: Recipe, path: str, name: str) -> Generation:
    """Add or replace the passages of a file or folder, read as the corpus section says."""
    from pipeline.encoder.encode import Encoder
    from pipeline.encoder.identity import identify
    from pipeline.encoder.model import load_model

    folder = opened(recipe, name)
    model = load_model(recipe.encoder, fetch_model(folder, folder.current(), ENCODER))
    identity = identify(model)
    encoder = Encoder(model, recipe.encoder.dtype, recipe.encoder.tokens_per_batch)
    return change.add(folder, _passages(recipe, path), encoder.encode_passages, identity)


def _passages(recipe: Recipe, path: str) -> pa.Table:
    if not Path(path).exists() and "://" not in path:
        raise RayrieverError(f"collection: {path} is not there.")
    section = recipe.corpus.model_copy(update={"path": path})
    rows, bad = list[Row](), list[BadRow]()
    for row in read(locate(section), section):
        (bad if isinstance(row, BadRow) else rows).append(row)  # type: ignore[arg-type]
    if bad:
        first = "\n".join(f"  {row.place}  {row.reason}" for row in bad[:_SHOWN])
        raise RayrieverError(
            f"collection: {len(bad):,} of {len(bad) + len(rows):,} rows of {path} cannot be used.\n{first}\n"
            "Mend them, or take them out. Nothing was added."
        )
    return passage_table(rows)


def ids_of(arguments: Sequence[str]) -> list[str]:
    """Ids as given, or, for an argument @FILE, the lines of that file."""
    ids: list[str] = []
    for argument in arguments:
        if not argument.startswith("@"):
            ids.append(argument)
            continue
        try:
            lines = Path(argument[1:]).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise RayrieverError(f"collection: {argument[1:]} cannot be read ({error.strerror}).") from error
        ids += [line.strip() for line in lines if line.strip()]
    return ids
