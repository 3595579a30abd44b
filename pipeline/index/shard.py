"""One FAISS index with its passage ids, and rankings that do not depend on how a corpus is cut into shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import RayrieverError
from pipeline.index.gpu import MOST_HITS, on_gpu
from pipeline.index.kinds import Spec
from pipeline.index.manifest import About, Effort
from pipeline.index.vector_file import VectorFile
from pipeline.sharded.folder import ShardFiles, ShardFolder
from pipeline.sharded.found import Found
from pipeline.sharded.ids import IDS, IdMap, dead_rows

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# Roles of a shard's files
INDEX, VECTORS = "index", "vectors"
# Fetched beyond k at first: room for ties at the cut and for the float32 error of FAISS's own scores.
_MARGIN = 16
_FLOAT32_ERROR = 1e-5
# Bytes of candidate vectors that are scored at a time: they stay in the processor's cache
_SETTLED_BYTES = 2e6
# Rows of a filter below which each is scored: FAISS would look at many more
_FEW_ROWS = 4096
# Rows per step of an exact search of an approximate index
_BLOCK_ROWS = 65_536
_BLAS_QUERIES = 4
_QUERIES_THRESHOLD = 20  # the default of versions that count queries
# What FAISS can map of each kind; packed codes it copies, and would map them besides.
_READ_FLAGS = {
    "flat": faiss.IO_FLAG_MMAP_IFC,
    "hnsw": faiss.IO_FLAG_MMAP_IFC,
    "ivf_flat": faiss.IO_FLAG_MMAP,
    "ivf_pq": 0,
}


@dataclass
class Shard:
    """`ids` of row i is that of vector i of the index; rows are in ascending order of id."""

    index: faiss.Index
    ids: IdMap
    spec: Spec
    effort: Effort
    vectors: VectorFile | None = None  # `[n, d]`, where the index does not hold them
    dead: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))  # deleted rows
    gpu: Any = None  # a copy of the index that searches where it can

    def __post_init__(self) -> None:
        kept = len(self.ids) if self.vectors is None else len(self.vectors)
        if not self.index.ntotal == len(self.ids) == kept:
            raise RayrieverError(
                f"index shard: {self.index.ntotal:,} vectors, {len(self.ids):,} ids, {kept:,} kept vectors. "
                "Build the index again."
            )
        if self.index.d != self.spec.dimension:
            raise RayrieverError(
                f"index shard: {self.index.d} dimensions instead of {self.spec.dimension}. Build the index again."
            )
        self._alive = np.ones(len(self.ids), dtype=bool)
        self._alive[self.dead] = False

    def search(self, queries: Vectors, k: int, only: Iterable[str] | None = None, exact: bool = False) -> Found:
        """The top k of each query `[n, d]`, ties by ascending id; padded where there are fewer.

        Exact for kind flat. Other kinds find their candidates as far as the effort goes, and score these exactly.

        Args:
            only: ids of the passages that may be found; None: all.
            exact: compare every vector, whatever the kind of index.
        """
        check_queries(queries, self.spec.dimension)
        allowed = self._alive if only is None else self._filter(only)
        available = int(allowed.sum())
        if only is not None and available <= _FEW_ROWS:
            return self._ranked(queries, np.tile(np.flatnonzero(allowed), (len(queries), 1)), k)
        if exact and not self.spec.is_exact:
            return self._compare_all(queries, k, allowed)
        selector = None if available == len(self.ids) else _selector(allowed)
        if self.spec.is_exact:
            return self._search_exactly(queries, k, available, selector)
        fetch = min(max(k * self.effort.candidates, k + _MARGIN), available)
        _, rows = self._candidates(queries, fetch, selector)
        return self._ranked(queries, rows, k)

    def _filter(self, only: Iterable[str]) -> npt.NDArray[np.bool_]:
        allowed = np.zeros(len(self.ids), dtype=bool)
        allowed[self.ids.rows(only)] = True
        allowed &= self._alive
        return allowed

    def _compare_all(self, queries: Vectors, k: int, allowed: npt.NDArray[np.bool_]) -> Found:
        """Every allowed vector, block by block, as an approximate index does not look at them."""
        rows = np.flatnonzero(allowed)
        fetch = min(k + _MARGIN, len(rows))
        best = faiss.ResultHeap(len(queries), max(fetch, 1), keep_max=True)
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = rows[start : start + _BLOCK_ROWS]
            vectors = self.vectors_of(block)
            scores, places = faiss.knn(queries, vectors, min(fetch, len(block)), faiss.METRIC_INNER_PRODUCT)
            best.add_result(scores, block[places])
        best.finalize()
        return self._ranked(queries, best.I[:, :fetch], k)

    def _search_exactly(self, queries: Vectors, k: int, available: int, selector: Any) -> Found:
        pending, fetch = np.arange(len(queries)), k + _MARGIN
        width = min(k, available)
        scores, rows = np.empty((len(queries), width), np.float32), np.empty((len(queries), width), np.int64)
        while len(pending) and width:
            fetch = min(fetch, available)
            rough, candidates = self._candidates(queries[pending], fetch, selector)
            exact, ordered = self._settled(queries[pending], candidates, width)
            scores[pending], rows[pending] = exact, ordered
            # A passage that was not fetched could tie with the k-th.
            unsure = exact[:, -1] <= rough[:, -1] + _FLOAT32_ERROR if fetch < available else np.zeros(len(exact), bool)
            pending, fetch = pending[unsure], fetch * 4
        return self._found(scores, rows, k)

    def _ranked(self, queries: Vectors, candidates: Rows, k: int) -> Found:
        return self._found(*self._settled(queries, candidates, min(k, candidates.shape[1])), k)

    def _candidates(self, queries: Vectors, fetch: int, selector: Any) -> tuple[Vectors, Rows]:
        if not fetch:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if self.gpu is not None and selector is None and fetch <= MOST_HITS:
            on_gpu: tuple[Vectors, Rows] = self.gpu.search(np.ascontiguousarray(queries), fetch)
            return on_gpu
        scores, rows = self.index.search(np.ascontiguousarray(queries), fetch, params=self._parameters(fetch, selector))
        return scores, rows

    def _parameters(self, fetch: int, selector: Any) -> Any:
        chosen = {} if selector is None else {"sel": selector}
        if self.spec.lists:
            return faiss.SearchParametersIVF(  # type: ignore[call-arg]
                nprobe=min(self.effort.probes, self.spec.lists), **chosen
            )
        if self.spec.kind == "hnsw":
            breadth = max(self.effort.depth, fetch)
            return faiss.SearchParametersHNSW(efSearch=breadth, **chosen)  # type: ignore[attr-defined]
        return faiss.SearchParameters(**chosen) if chosen else None

    def _settled(self, queries: Vectors, candidates: Rows, k: int) -> tuple[Vectors, Rows]:
        """The k best candidates `[n, fetch]` by exact score, then by row; -1 is none.

        FAISS's scores depend on how BLAS cuts the matrix, so that equal vectors in two shards may differ in the last
        bit; summed again in float64, a pair's score depends on the pair alone.
        """
        queries_per_step = max(1, int(_SETTLED_BYTES / (8 * self.spec.dimension * max(1, candidates.shape[1]))))
        scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), queries_per_step):
            step = slice(start, start + queries_per_step)
            wanted = candidates[step]
            vectors = (
                self.vectors_of(np.maximum(wanted, 0).ravel())
                .reshape(*wanted.shape, self.spec.dimension)
                .astype(np.float64)
            )
            exact = np.einsum("qcd,qd->qc", vectors, queries[step].astype(np.float64)).astype(np.float32)
            exact[wanted < 0] = -np.inf
            order = np.lexsort((wanted, -exact), axis=-1)[:, :k]
            scores[step] = np.take_along_axis(exact, order, axis=1)
            rows[step] = np.take_along_axis(wanted, order, axis=1)
        return scores, rows

    def vectors_of(self, rows: Rows) -> Vectors:
        """Vectors `[n, d]` of the rows."""
        if self.vectors is not None:
            return self.vectors.take(rows)
        found: Vectors = self.index.reconstruct_batch(rows)
        return found

    def _found(self, scores: Vectors, rows: Rows, k: int) -> Found:
        missing = k - scores.shape[1]
        if missing > 0:
            scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
            rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=-1)
        return Found(scores, self.ids.of(rows.ravel()))


def check_queries(queries: Vectors, dimension: int) -> None:
    """Raise RayrieverError unless queries `[n, d]` can be compared with vectors of that dimension."""
    if queries.shape[1] != dimension:
        raise RayrieverError(
            f"index: built with {dimension} dimensions, the query has {queries.shape[1]}; was it another model?"
        )
    if not np.isfinite(queries).all():
        raise RayrieverError("index: the vector of a query is not finite; check the encoder's training.")


def _selector(allowed: npt.NDArray[np.bool_]) -> Any:
    bitmap = np.packbits(allowed, bitorder="little")
    return faiss.IDSelectorBitmap(bitmap)  # type: ignore[call-arg, arg-type]


def _multiply_matrices_early(dimension: int) -> None:
    """Let FAISS hand a few queries to BLAS, too; since 1.15 it compares up to some 300 of them one by one.

    From four on, BLAS is faster: 1.4 times for six queries, 8 times for 256.
    """
    if faiss.cvar.distance_compute_blas_threshold > _QUERIES_THRESHOLD:  # later versions count numbers, not queries
        faiss.cvar.distance_compute_blas_threshold = _BLAS_QUERIES * dimension


def open_shard(folder: ShardFolder, files: ShardFiles, about: About, threads: int, gpu: bool = False) -> Shard:
    """A finished shard, its files checked and mapped where FAISS can. Raises RayrieverError naming what is wrong."""
    faiss.omp_set_num_threads(threads)
    _multiply_matrices_early(about.spec.dimension)
    index_path, ids_path = folder.fetch([files.files[INDEX], files.files[IDS]])
    try:
        index = faiss.read_index(str(index_path), _READ_FLAGS[about.spec.kind])
        ids = IdMap.open(ids_path)
        vectors = VectorFile(folder.fetch([files.files[VECTORS]])[0]) if VECTORS in files.files else None
    except (RuntimeError, ValueError, pa.ArrowInvalid) as error:
        raise RayrieverError(f"{folder.path}: a shard cannot be read ({error}). Build the index again.") from error
    if about.spec.kind == "ivf_flat":
        index.make_direct_map()  # type: ignore[attr-defined]  # which list a row is in, to read its vector
    copy = on_gpu(index) if gpu and about.spec.kind == "flat" and about.spec.precision == "float32" else None
    return Shard(index, ids, about.spec, about.effort, vectors, dead_rows(folder, files), copy)
