"""One exact inner-product FAISS index with its passage ids, and rankings that do not depend on the sharding."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RayrieverError
from pipeline.rankings import Hit

# Fetched beyond k at first: room for ties at the cut and for the float32 error of FAISS's own scores.
_MARGIN = 16
_FLOAT32_ERROR = 1e-5


class Shard:
    """`ids[i]` belongs to row i of the index; rows are in ascending order of id."""

    def __init__(self, index: faiss.Index, ids: list[str]) -> None:
        if index.ntotal != len(ids):
            raise RayrieverError(f"index shard: {index.ntotal} vectors but {len(ids)} ids; rebuild with --from.")
        self.index = index
        self.ids = ids

    @classmethod
    def build(cls, ids: list[str], vectors: npt.NDArray[np.float32]) -> Shard:
        """`vectors` is `[n, d]`. Raises RayrieverError on a vector that is not finite."""
        if not np.isfinite(vectors).all():
            broken = ids[int(np.argmax(~np.isfinite(vectors).all(axis=1)))]
            raise RayrieverError(
                f"index: the vector of passage {broken!r} is not finite; check the encoder's training."
            )
        order = sorted(range(len(ids)), key=ids.__getitem__)
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors[order]))
        return cls(index, [ids[row] for row in order])

    @classmethod
    def load(cls, index_file: Path, ids_file: Path) -> Shard:
        return cls(faiss.read_index(str(index_file)), pq.read_table(ids_file)["passage_id"].to_pylist())

    def index_bytes(self) -> bytes:
        """What `faiss.read_index` reads from a file."""
        return bytes(faiss.serialize_index(self.index).tobytes())

    def ids_table(self) -> pa.Table:
        return pa.table({"passage_id": pa.array(self.ids, pa.string())})

    def search(self, queries: npt.NDArray[np.float32], k: int) -> list[list[Hit]]:
        """The exact top k of each query `[n, d]`, ties by ascending id; fewer where the shard is smaller."""
        if queries.shape[1] != self.index.d:
            raise RayrieverError(
                f"index: built with {self.index.d} dimensions, the query has {queries.shape[1]}; was it another model?"
            )
        found: list[list[Hit] | None] = [None] * len(queries)
        pending, fetch = np.arange(len(queries)), k + _MARGIN
        while len(pending):
            fetch = min(fetch, self.index.ntotal)
            rough, rows = self.index.search(np.ascontiguousarray(queries[pending]), fetch)
            for query, scores, candidates in zip(pending, rough, rows, strict=True):
                found[query] = self._settle(queries[query], scores, candidates, k)
            pending = np.array([query for query in pending if found[query] is None], dtype=np.int64)
            fetch *= 4
        return [hits for hits in found if hits is not None]

    def _settle(
        self,
        query: npt.NDArray[np.float32],
        rough: npt.NDArray[np.float32],
        rows: npt.NDArray[np.int64],
        k: int,
    ) -> list[Hit] | None:
        """Exact order of the candidates, or None when a passage not fetched could tie with the k-th.

        FAISS's scores depend on how BLAS cuts the matrix, so that equal vectors in two shards may differ in the last
        bit; summed again in float64, a pair's score depends on the pair alone.
        """
        vectors = self.index.reconstruct_batch(rows).astype(np.float64)
        scores = (vectors * query.astype(np.float64)).sum(axis=1).astype(np.float32)
        order = np.lexsort((rows, -scores))[:k]
        if len(rows) < self.index.ntotal and scores[order[-1]] <= rough[-1] + _FLOAT32_ERROR:
            return None
        return [Hit(self.ids[rows[place]], float(scores[place])) for place in order]
