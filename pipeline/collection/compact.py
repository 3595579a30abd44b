"""Write a collection anew without what was deleted, and delete generations that nobody reads."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipeline.collection.about import RUN_REPORT, About
from pipeline.collection.leases import held
from pipeline.collection.models import ENCODER, RERANKER
from pipeline.collection.naming import next_number
from pipeline.collection.passages import alive, rows_of, write_shards
from pipeline.digest import digest
from pipeline.errors import RayrieverError
from pipeline.index.build import build_shards, tuned
from pipeline.index.builder import Vectors
from pipeline.index.kinds import LEAST_CODED, choose
from pipeline.index.shard import open_shard
from pipeline.index.tuning import least
from pipeline.lexical.stage import STATISTICS, build_words
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.records import vector_schema
from pipeline.sharded.folder import PASSAGES, VECTORS, WORDS, File, Generation, ShardFolder, generation_file
from pipeline.sharded.ids import dead_rows
from pipeline.sharded.rows import Rows

_PIECE_ROWS = 8192
# A reader that has just read which generation is the newest has not said yet that it holds it.
_GRACE_S = 60.0
# What no generation names may belong to a change that is being made.
_LEFTOVER_S = 24 * 3600.0
_BUILDING = "building"


def compact(folder: ShardFolder, recipe: Recipe, progress: Progress) -> Generation:
    """A generation with the same passages in as few shards as the recipe asks for, and words counted anew.

    Vectors are taken from the shards: nothing is encoded. What an index kept with less precision stays as it is.
    """
    from pipeline.ray_session import ensure_ray

    current = folder.current()
    about = About.of(current.about)
    number = next_number(folder)
    ensure_ray(recipe.ray)
    total = sum(files.rows - len(dead_rows(folder, files)) for files in current.shards[VECTORS])
    if not total:
        raise RayrieverError(f"{folder.path}: every passage is deleted; publish a run instead.")
    made_as = about.index.spec
    kind = made_as.kind if total >= LEAST_CODED else "flat"
    section = recipe.index.model_copy(update={"kind": kind, "precision": made_as.precision})
    spec = choose(section, total, made_as.dimension).spec
    # One that died goes on where it was, unless it would build something else now.
    same = digest({"of": current.number, "spec": vars(spec), "per_shard": recipe.lexical.shard_passages})
    building, prefix = ShardFolder(folder.uri, f"{folder.path}/{_BUILDING}/{same}"), f"{number:06d}-{same[:8]}-"
    rows = _write_vectors(folder, current, about, building)
    vectors, trained = build_shards(progress, Vectors(rows, spec.dimension), spec, building, recipe.index, prefix)
    passages = write_shards(alive(folder, current), building, prefix)
    per_shard = recipe.lexical.shard_passages
    texts = rows_of(building, passages)
    words, statistics = build_words(
        progress, texts, about.words.lexical, building, max(1, -(-texts.total // per_shard)), prefix
    )
    # Other lists, other neighbours: what was enough effort before says nothing of these.
    index = replace(about.index, spec=spec, effort=least(spec), recall=None)
    if not spec.is_exact:
        index = tuned(index, section, building, vectors[0])
    made = replace(about, index=index, change="compacted", additions=0)
    shards = {VECTORS: tuple(vectors), WORDS: tuple(words), PASSAGES: tuple(passages)}
    generation = Generation(number, made.values(), shards, trained | {STATISTICS: statistics})
    folder.take_over(building, generation.files())
    generation = replace(generation, extra={**generation.extra, **_beside_shards(current)})
    folder.commit(generation)
    folder.workspace.delete_folder(*folder.relative, _BUILDING)
    return generation


def _beside_shards(generation: Generation) -> dict[str, File]:
    """What does not depend on the passages: models and report."""
    kept = (f"{ENCODER}/", f"{RERANKER}/", RUN_REPORT)
    return {name: file for name, file in generation.extra.items() if name.startswith(kept)}


def _write_vectors(folder: ShardFolder, current: Generation, about: About, building: ShardFolder) -> Rows:
    """The vectors that are alive, as an encode stage leaves them."""
    schema, parts, counts = vector_schema(about.index.spec.dimension), list[str](), list[int]()
    for piece in _alive_vectors(folder, current, about):
        parts.append(f"{building.path}/vectors-{len(parts):06d}.parquet")
        counts.append(piece.num_rows)
        folder.workspace.write_table(parts[-1], piece.cast(schema))
    return Rows(folder.uri, tuple(parts), tuple(counts))


def _alive_vectors(folder: ShardFolder, current: Generation, about: About) -> Iterator[pa.Table]:
    dimension = about.index.spec.dimension
    for files in current.shards[VECTORS]:
        shard = open_shard(folder, files, about.index, os.cpu_count() or 1)
        rows = np.setdiff1d(np.arange(files.rows), dead_rows(folder, files))
        for start in range(0, len(rows), _PIECE_ROWS):
            piece = rows[start : start + _PIECE_ROWS]
            column = pa.FixedSizeListArray.from_arrays(pa.array(shard.vectors_of(piece).ravel()), dimension)
            yield pa.table([shard.ids.of(piece), column], names=["passage_id", "vector"])


def prune(folder: ShardFolder, grace_s: float = _GRACE_S) -> list[int]:
    """Delete old generations that no reader holds, and files that no generation needs; returns the numbers.

    A generation stays for some time after the next one came, even where nobody holds it. What changes that failed
    have left behind goes after a day.
    """
    numbers = folder.generations()
    reading = held(folder)
    filesystem = folder.workspace.filesystem
    infos = filesystem.get_file_info([f"{folder.path}/{generation_file(number)}" for number in numbers])
    old = [
        number
        for number, successor in zip(numbers, infos[1:], strict=False)
        if number not in reading and successor.mtime.timestamp() + grace_s <= time.time()
    ]
    kept = {file.path for number in numbers if number not in old for file in folder.generation(number).files()}
    for number in old:
        gone = [file.path for file in folder.generation(number).files() if file.path not in kept]
        folder.delete(gone)
        folder.delete([generation_file(number)])  # last: while it is there, another attempt finds its files
    _delete_leftovers(folder, kept)
    return old


def _delete_leftovers(folder: ShardFolder, kept: set[str]) -> None:
    generations = {generation_file(number) for number in folder.generations()}
    over = time.time() - _LEFTOVER_S
    for info in folder.workspace.list_file_infos(*folder.relative):
        relative = info.path[len(folder.path) + 1 :]
        if relative not in kept | generations and info.mtime.timestamp() < over:
            folder.delete([relative])
