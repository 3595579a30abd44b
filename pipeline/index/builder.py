"""What one task does to build an index: train on a sample, or turn a range of vectors into a shard's files.

Memory: the index itself. Vectors pass through a mapped file, whose pages the system takes back when it needs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RayrieverError
from pipeline.index.kinds import ROWS_PER_CENTROID, Spec
from pipeline.index.shard import IDS, INDEX, VECTORS
from pipeline.sharded.folder import ShardFiles, ShardFolder
from pipeline.sharded.ids import IdMap
from pipeline.sharded.rows import Rows
from pipeline.workspace import Workspace

TRAINED = "trained"
_LEAST_SAMPLE = 20_000
# Vectors given to an approximate index at a time
_ADD_ROWS = 65_536


@dataclass(frozen=True)
class Vectors:
    """The vectors of a corpus: rows of `records.vector_schema`."""

    rows: Rows
    dimension: int


def train(vectors: Vectors, spec: Spec, folder: ShardFolder, threads: int) -> ShardFiles:
    """An empty index with the centroids that all shards share, trained once on vectors drawn evenly."""
    faiss.omp_set_num_threads(threads)
    wanted = max(spec.lists * ROWS_PER_CENTROID, _LEAST_SAMPLE)
    sample = _sample(vectors, min(wanted, vectors.rows.total))
    index = spec.new_index()
    if spec.lists:
        index.cp.max_points_per_centroid = ROWS_PER_CENTROID  # type: ignore[attr-defined]
    index.train(sample)
    with folder.scratch() as scratch:
        path = scratch / "trained.faiss"
        faiss.write_index(index, str(path))
        return folder.add_shard(0, TRAINED, {INDEX: path})


def build(
    vectors: Vectors,
    bounds: tuple[int, int],
    spec: Spec,
    trained: ShardFiles | None,
    folder: ShardFolder,
    name: str,
    threads: int,
) -> ShardFiles:
    """Rows `bounds` of the vectors as one shard: rows in ascending order of id, whatever order they came in."""
    faiss.omp_set_num_threads(threads)
    with folder.scratch() as scratch:
        ids, spilled = _spill(vectors, bounds, scratch / "shard.vectors.npy")
        index = _empty(spec, trained, folder)
        _fill(index, spilled, spec)
        files = {INDEX: scratch / "shard.faiss", IDS: scratch / "shard.ids.arrow"}
        faiss.write_index(index, str(files[INDEX]))
        IdMap(ids).save(files[IDS])
        if spec.keeps_vectors:
            files[VECTORS] = scratch / "shard.vectors.npy"
        return folder.add_shard(len(ids), name, files)


def _spill(vectors: Vectors, bounds: tuple[int, int], path: Path) -> tuple[pa.Array, npt.NDArray[np.float32]]:
    """The ids in ascending order, and the vectors in that order in a mapped file."""
    pieces = vectors.rows.pieces(*bounds, columns=["passage_id"])
    ids = pa.concat_arrays([chunk for piece in pieces for chunk in piece["passage_id"].chunks])
    order = pa.compute.array_sort_indices(ids).to_numpy()
    ids = ids.take(pa.array(order))
    _refuse_repeated(ids)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    shape = (len(order), vectors.dimension)
    spilled: npt.NDArray[np.float32] = np.lib.format.open_memmap(path, "w+", np.float32, shape)  # type: ignore[no-untyped-call]
    start = 0
    for piece in vectors.rows.pieces(*bounds, columns=["passage_id", "vector"]):
        rows = _matrix(piece)
        if not np.isfinite(rows).all():
            broken = piece["passage_id"][int(np.argmax(~np.isfinite(rows).all(axis=1)))].as_py()
            raise RayrieverError(
                f"index: the vector of passage {broken!r} is not finite; check the encoder's training."
            )
        spilled[place[start : start + len(rows)]] = rows
        start += len(rows)
    spilled.flush()  # type: ignore[attr-defined]
    return ids, spilled


def _refuse_repeated(ids: pa.Array) -> None:
    repeated = pa.compute.equal(ids[1:], ids[:-1])
    if pa.compute.any(repeated).as_py():
        first = ids[int(np.argmax(repeated.to_numpy(zero_copy_only=False)))].as_py()
        raise RayrieverError(f"index: passage {first!r} has two vectors. Encode the corpus again.")


def _matrix(piece: pa.Table) -> npt.NDArray[np.float32]:
    chunks = [chunk.flatten().to_numpy() for chunk in piece["vector"].chunks]
    matrix: npt.NDArray[np.float32] = np.concatenate(chunks).reshape(piece.num_rows, -1)
    return matrix


def _empty(spec: Spec, trained: ShardFiles | None, folder: ShardFolder) -> faiss.Index:
    if trained is None:
        return spec.new_index()
    return faiss.read_index(str(folder.fetch([trained.files[INDEX]])[0]))


def _fill(index: faiss.Index, vectors: npt.NDArray[np.float32], spec: Spec) -> None:
    # A flat index grows by doubling and copying: given all at once, it takes what it needs and no more.
    step = len(vectors) if spec.kind == "flat" else _ADD_ROWS
    for start in range(0, len(vectors), max(step, 1)):
        index.add(np.asarray(vectors[start : start + step]))


def _sample(vectors: Vectors, wanted: int) -> npt.NDArray[np.float32]:
    """`[wanted, d]`: of every part its share, at random places that a rerun draws again."""
    generator, filesystem = np.random.default_rng(0), Workspace(vectors.rows.uri).filesystem
    chosen: list[npt.NDArray[np.float32]] = []
    seen = taken = 0
    for part, count in zip(vectors.rows.parts, vectors.rows.counts, strict=True):
        seen += count
        share = wanted * seen // vectors.rows.total - taken
        if share:
            table = pq.read_table(part, columns=["vector"], filesystem=filesystem)
            places = np.sort(generator.choice(count, share, replace=False))
            chosen.append(_matrix(table.take(pa.array(places))))
        taken += share
    return np.concatenate(chosen)
