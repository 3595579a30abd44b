"""Build the shards of an index in Ray tasks from a table of vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.recipe import Recipe
from pipeline.stage import Estimate, StageContext
from pipeline.workspace import Workspace

DIRECTORY = "index"


def shard_files(number: int) -> tuple[str, str]:
    """File names of a shard: the FAISS index and the ids of its rows."""
    return f"shard-{number:04d}.faiss", f"shard-{number:04d}.ids.parquet"


def run_base(ctx: StageContext) -> None:
    """Index the base encoder's vectors."""
    build(ctx, "encode_base")


def run_tuned(ctx: StageContext) -> None:
    """Index the tuned encoder's vectors."""
    build(ctx, "encode_tuned")


def run_aligned(ctx: StageContext) -> None:
    """Index the aligned encoder's vectors."""
    build(ctx, "encode_aligned")


def build(ctx: StageContext, encode_stage: str) -> None:
    """Write folder `index`: shards of equal size and `index.json`, which says what they hold."""
    import ray

    from pipeline.ray_session import ensure_ray, explained_ray_errors

    ensure_ray(ctx.recipe.ray)
    encoded = ctx.inputs[encode_stage]
    parts, total = encoded.parts("vectors"), encoded.rows("vectors")
    shards = min(ctx.recipe.index.shards, total)
    task = ray.remote(num_cpus=1)(_build_shard)
    folder = ctx.out.part_folder(DIRECTORY)
    bounds = [total * number // shards for number in range(shards + 1)]
    pending = [
        task.remote(ctx.workspace.uri, parts, (bounds[number], bounds[number + 1]), folder, number)
        for number in range(shards)
    ]
    digests: dict[str, str] = {}
    with explained_ray_errors("index: a task", "One killed for memory needs more index.shards."):
        for done, reference in enumerate(pending, start=1):
            digests |= ray.get(reference)
            ctx.progress.update("shards built", done, shards)
    about = {
        "kind": "flat",
        "metric": "inner_product",
        "shards": shards,
        "passages": total,
        "vectors": encoded.manifest.key,
    }
    digests["index.json"] = _write(ctx.workspace, f"{folder}/index.json", json.dumps(about, indent=1).encode())
    ctx.out.adopt_files(DIRECTORY, digests)


def _build_shard(uri: str, parts: list[str], bounds: tuple[int, int], folder: str, number: int) -> dict[str, str]:
    import numpy as np

    from pipeline.index.shard import Shard

    workspace = Workspace(uri)
    rows = _read_rows(workspace, parts, *bounds)
    vectors = rows["vector"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1).astype(np.float32)
    shard = Shard.build(rows["passage_id"].to_pylist(), vectors)
    sink = pa.BufferOutputStream()
    pq.write_table(shard.ids_table(), sink)
    index_file, ids_file = shard_files(number)
    return {
        index_file: _write(workspace, f"{folder}/{index_file}", shard.index_bytes()),
        ids_file: _write(workspace, f"{folder}/{ids_file}", sink.getvalue().to_pybytes()),
    }


def _read_rows(workspace: Workspace, parts: list[str], start: int, stop: int) -> pa.Table:
    """Rows start..stop of the parts in the order listed; parts outside the range are not read."""
    chosen, position = [], 0
    for part in parts:
        rows = pq.read_metadata(part, filesystem=workspace.filesystem).num_rows
        low, high = max(start - position, 0), min(stop - position, rows)
        if low < high:
            chosen.append(pq.read_table(part, filesystem=workspace.filesystem).slice(low, high - low))
        position += rows
    return pa.concat_tables(chosen)


def _write(workspace: Workspace, path: str, content: bytes) -> str:
    workspace.write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    vectors = next(iter(upstream.values()))
    return Estimate(rows=vectors.rows, disk_bytes=vectors.disk_bytes)
