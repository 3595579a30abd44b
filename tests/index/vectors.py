"""Vectors with structure, and shards made of them without Ray."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import records
from pipeline.encoder.identity import EncoderIdentity
from pipeline.index import builder, tuning
from pipeline.index.kinds import Spec, choose
from pipeline.index.manifest import About, Effort
from pipeline.index.shard import Shard, open_shard
from pipeline.rankings import Hit
from pipeline.recipe import IndexSection
from pipeline.sharded.folder import VECTORS, Generation, ShardFolder
from pipeline.sharded.found import merge
from pipeline.sharded.rows import Rows, bounds_of
from pipeline.workspace import Workspace

ENCODER = EncoderIdentity("weights-1", "", "passage: ", 64, 48)


def unit(rows: int, dimension: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mixture(rows: int, dimension: int, seed: int, topics: int = 50) -> np.ndarray:
    """Unit vectors around some topics, as texts are; white noise has no neighbours to find."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(topics, dimension))
    vectors = centres[draw.integers(0, topics, rows)] + 0.6 * draw.normal(size=(rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def shuffled_ids(rows: int) -> list[str]:
    return [f"d{number}" for number in np.random.default_rng(2).permutation(rows)]


def stored(folder: Path, vectors: np.ndarray, ids: Sequence[str], rows_per_part: int = 700) -> builder.Vectors:
    """The vectors as an encode stage leaves them: Parquet parts."""
    workspace, dimension = Workspace(str(folder)), vectors.shape[1]
    schema = records.vector_schema(dimension)
    parts, rows = [], []
    for start in range(0, len(ids), rows_per_part):
        of_part = vectors[start : start + rows_per_part]
        column = pa.FixedSizeListArray.from_arrays(pa.array(of_part.ravel()), dimension)
        parts.append(f"{folder}/part-{start:06d}.parquet")
        rows.append(len(of_part))
        names = pa.array(list(ids[start : start + rows_per_part]))
        workspace.write_table(parts[-1], pa.Table.from_arrays([names, column], schema=schema))
    return builder.Vectors(Rows(workspace.uri, tuple(parts), tuple(rows)), dimension)


def spec_of(rows: int, dimension: int, **section: object) -> Spec:
    return choose(IndexSection.model_validate({"kind": "flat"} | section), rows, dimension).spec


def build_folder(folder: Path, vectors: builder.Vectors, spec: Spec, effort: Effort | None = None) -> ShardFolder:
    """All shards and their first generation."""
    shards = ShardFolder(str(folder), str(folder / "index"))
    trained = builder.train(vectors, spec, shards) if spec.needs_training else None
    built = [
        builder.build(vectors, bounds, spec, trained, shards, f"shard-{number:04d}", 2)
        for number, bounds in enumerate(bounds_of(vectors.rows.total, spec.shards))
    ]
    encoder = replace(ENCODER, dimension=spec.dimension)
    about = About(spec, "test", effort or tuning.least(spec), None, encoder, "corpus", "vectors")
    shards.commit(Generation(1, about.values(), {VECTORS: tuple(built)}))
    return shards


def open_all(folder: ShardFolder) -> list[Shard]:
    generation = folder.current()
    return [open_shard(folder, files, About.of(generation.about), 2) for files in generation.shards[VECTORS]]


def search(shards: Sequence[Shard], queries: np.ndarray, k: int, **options: object) -> list[list[Hit]]:
    return merge([shard.search(queries, k, **options) for shard in shards], k).hits()


def ids_of(rankings: Sequence[Sequence[Hit]]) -> list[list[str]]:
    return [[hit.passage_id for hit in hits] for hits in rankings]


def brute_force(vectors: np.ndarray, ids: Sequence[str], queries: np.ndarray, k: int) -> list[list[str]]:
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    return [[ids[i] for i in sorted(range(len(ids)), key=lambda i: (-row[i], ids[i]))[:k]] for row in scores]
