"""What one task does to build an index: train on a sample, or turn a range of vectors into a shard's files.

Memory: the index itself. Vectors pass through a file, read and written by row.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RayrieverError
from pipeline.index.gpu import on_gpu
from pipeline.index.kinds import ROWS_PER_CENTROID, Spec
from pipeline.index.shard import INDEX, VECTORS
from pipeline.index.vector_file import VectorFile
from pipeline.sharded.folder import File, ShardFiles, ShardFolder
from pipeline.sharded.ids import IDS, IdMap
from pipeline.sharded.rows import Rows
from pipeline.workspace import Workspace

TRAINED = "trained"
_SPILLED = "shard.vectors.npy"
_LEAST_SAMPLE = 20_000
# Vectors given to an approximate index at a time
_ADD_ROWS = 16_384


@dataclass(frozen=True)
class Vectors:
    """The vectors of a corpus: rows of `records.vector_schema`."""

    rows: Rows
    dimension: int


def train(vectors: Vectors, spec: Spec, folder: ShardFolder, name: str = TRAINED, gpu: bool = False) -> ShardFiles:
    """An empty index with the centroids that all shards share, trained once on vectors drawn evenly.

    Takes every core of its machine: no shard can be built before.
    """
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    wanted = max(spec.lists * ROWS_PER_CENTROID, _LEAST_SAMPLE)
    sample = _sample(vectors, min(wanted, vectors.rows.total))
    index = spec.new_index()
    if spec.lists:
        index.cp.max_points_per_centroid = ROWS_PER_CENTROID  # type: ignore[attr-defined]
    if spec.lists and gpu:
        index.clustering_index = on_gpu(spec.new_quantizer())  # type: ignore[attr-defined]
    index.train(sample)
    with folder.scratch() as scratch:
        path = scratch / "trained.faiss"
        _write(index, path)
        return folder.note(name, folder.add_shard(0, name, {INDEX: path}))


def build(
    vectors: Vectors,
    bounds: tuple[int, int],
    spec: Spec,
    trained: ShardFiles | None,
    folder: ShardFolder,
    name: str,
    threads: int,
    gpu: bool = False,
) -> ShardFiles:
    """Rows `bounds` of the vectors as one shard: rows in ascending order of id, whatever order they came in."""
    faiss.omp_set_num_threads(threads)
    with folder.scratch() as scratch:
        ids, spilled = _spill(vectors, bounds, scratch / _SPILLED)
        file = None if trained is None else trained.files[INDEX]
        return folder.note(name, _shard(ids, spilled, spec, file, folder, name, scratch, gpu))


def build_from(
    ids: pa.Array, vectors: npt.NDArray[np.float32], spec: Spec, trained: File | None, folder: ShardFolder, name: str
) -> ShardFiles:
    """The same for vectors `[n, d]` that are in memory already.

    Args:
        trained: the empty index that the other shards were made from; None where the kind needs none.
    """
    _refuse_broken(ids, vectors)
    order = pa.compute.array_sort_indices(ids).to_numpy()
    ordered = ids.take(pa.array(order))
    _refuse_repeated(ordered)
    with folder.scratch() as scratch:
        spilled = VectorFile.create(scratch / _SPILLED, len(ids), spec.dimension)
        spilled.put(np.arange(len(ids)), vectors[order])
        return _shard(ordered, spilled, spec, trained, folder, name, scratch)


def _shard(
    ids: pa.Array,
    vectors: VectorFile,
    spec: Spec,
    trained: File | None,
    folder: ShardFolder,
    name: str,
    scratch: Path,
    gpu: bool = False,
) -> ShardFiles:
    index = _empty(spec, trained, folder)
    _fill(index, vectors, spec, gpu)
    files = {INDEX: scratch / "shard.faiss", IDS: scratch / "shard.ids.arrow"}
    _write(index, files[INDEX])
    IdMap(ids).save(files[IDS])
    if spec.keeps_vectors:
        files[VECTORS] = scratch / _SPILLED
    return folder.add_shard(len(ids), name, files)


def _spill(vectors: Vectors, bounds: tuple[int, int], path: Path) -> tuple[pa.Array, VectorFile]:
    """The ids in ascending order, and the vectors in that order in a file."""
    pieces = vectors.rows.pieces(*bounds, columns=["passage_id"])
    ids = pa.concat_arrays([chunk for piece in pieces for chunk in piece["passage_id"].chunks])
    order = pa.compute.array_sort_indices(ids).to_numpy()
    ids = ids.take(pa.array(order))
    _refuse_repeated(ids)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    spilled = VectorFile.create(path, len(order), vectors.dimension)
    start = 0
    for piece in vectors.rows.pieces(*bounds, columns=["passage_id", "vector"]):
        rows = _matrix(piece)
        _refuse_broken(piece["passage_id"], rows)
        spilled.put(place[start : start + len(rows)], rows)
        start += len(rows)
    return ids, spilled


def _refuse_broken(ids: pa.Array | pa.ChunkedArray, vectors: npt.NDArray[np.float32]) -> None:
    """FAISS takes them and finds nonsense for ever after."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        broken = ids[int(np.argmax(~finite))].as_py()
        raise RayrieverError(f"index: the vector of passage {broken!r} is not finite; check the encoder's training.")


def _refuse_repeated(ids: pa.Array) -> None:
    repeated = pa.compute.equal(ids[1:], ids[:-1])
    if pa.compute.any(repeated).as_py():
        first = ids[int(np.argmax(repeated.to_numpy(zero_copy_only=False)))].as_py()
        raise RayrieverError(f"index: passage {first!r} has two vectors. Encode the corpus again.")


def _matrix(piece: pa.Table) -> npt.NDArray[np.float32]:
    chunks = [chunk.flatten().to_numpy() for chunk in piece["vector"].chunks]
    matrix: npt.NDArray[np.float32] = np.concatenate(chunks).reshape(piece.num_rows, -1)
    return matrix


def _write(index: faiss.Index, path: Path) -> None:
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # FAISS's way to say that the disk is full
        raise OSError(str(error)) from error


def _empty(spec: Spec, trained: File | None, folder: ShardFolder) -> faiss.Index:
    return spec.new_index() if trained is None else faiss.read_index(str(folder.fetch([trained])[0]))


def _fill(index: Any, vectors: VectorFile, spec: Spec, gpu: bool) -> None:
    """Add all vectors in steps, in the memory that they need: FAISS would grow by doubling and copying."""
    steps = [np.arange(start, min(start + _ADD_ROWS, len(vectors))) for start in range(0, len(vectors), _ADD_ROWS)]
    if spec.kind == "ivf_flat":
        _fill_lists(index, vectors, steps, on_gpu(index.quantizer) if gpu else index.quantizer)
        return
    if not spec.lists:
        _reserve(faiss.downcast_index(index.storage) if spec.kind == "hnsw" else index, len(vectors))
    for rows in steps:
        index.add(vectors.take(rows))


def _reserve(index: Any, rows: int) -> None:
    index.codes.resize(rows * index.code_size)
    index.codes.resize(0)  # keeps what it has reserved


def _fill_lists(index: Any, vectors: VectorFile, steps: list[npt.NDArray[np.int64]], quantizer: Any) -> None:
    lists = [quantizer.search(vectors.take(rows), 1)[1].ravel() for rows in steps]
    inverted = faiss.downcast_InvertedLists(index.invlists)
    counts = sum((np.bincount(each, minlength=index.nlist) for each in lists), np.zeros(index.nlist, np.int64))
    for number, count in enumerate(counts.tolist()):
        inverted.resize(number, count)
        inverted.resize(number, 0)
    for rows, of_rows in zip(steps, lists, strict=True):
        batch = np.ascontiguousarray(vectors.take(rows))
        index.add_core(len(rows), faiss.swig_ptr(batch), None, faiss.swig_ptr(np.ascontiguousarray(of_rows)))


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
