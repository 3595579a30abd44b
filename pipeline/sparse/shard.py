"""One shard of weighted terms: for every vocabulary entry the passages that have it, and the exact best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from pipeline.errors import RayrieverError
from pipeline.sharded.folder import ShardFiles, ShardFolder
from pipeline.sharded.found import Found, best_rows
from pipeline.sharded.ids import IDS, IdMap

# Roles of a shard's files
_ARRAYS = ("data", "indices", "indptr")


class Weighted(NamedTuple):
    """A query: vocabulary entries, ascending, and the weight of each."""

    terms: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


@dataclass
class TermShard:
    """`ids` of row i is that of column i of the postings; they are in ascending order."""

    postings: sparse.csr_matrix  # [vocabulary, passages]: a search reads the rows of its terms and no others
    ids: IdMap

    def search(self, queries: Sequence[Weighted], k: int) -> Found:
        """The top k of each query by the sum of products of weights, equal scores by passage id; padded.

        Only passages that share a term with the query are found.
        """
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        for number, query in enumerate(queries):  # one by one: its postings and a number per passage are in memory
            values, places = best_rows(self._scores(query), k)
            scores[number, : len(values)], rows[number, : len(places)] = values, places
        return Found(scores, self.ids.of(rows.ravel()))

    def _scores(self, query: Weighted) -> npt.NDArray[np.float32]:
        """`[passages]`. Every sum runs over the query's terms in their order, whatever else the shard holds."""
        if len(query.terms) == 0:
            return np.zeros(len(self.ids), np.float32)
        scores = self.postings[query.terms].T @ query.weights.astype(np.float64)
        # What the merge of shards compares is what is compared here.
        rounded: npt.NDArray[np.float32] = scores.astype(np.float32)
        return rounded


def index_terms(weights: sparse.csr_matrix, ids: pa.Array) -> TermShard:
    """The shard of passages `[n, vocabulary]` whose ids, in any order, are these n."""
    order = pc.array_sort_indices(ids)
    return TermShard(weights[order.to_numpy()].T.tocsr(), IdMap(ids.take(order)))


def save(shard: TermShard, folder: Path) -> dict[str, Path]:
    """The shard's files by role."""
    files = {role: folder / f"shard.{role}.npy" for role in _ARRAYS}
    for role, path in files.items():
        np.save(path, getattr(shard.postings, role), allow_pickle=False)
    files[IDS] = folder / "shard.ids.arrow"
    shard.ids.save(files[IDS])
    return files


def open_term_shard(folder: ShardFolder, files: ShardFiles) -> TermShard:
    """A finished shard, its files checked and mapped. Raises RayrieverError naming what is wrong."""
    *arrays, ids = folder.fetch([files.files[role] for role in (*_ARRAYS, IDS)])
    try:
        data, indices, indptr = (np.load(path, mmap_mode="r", allow_pickle=False) for path in arrays)
        kept = IdMap.open(ids)
        postings = sparse.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, len(kept)), copy=False)
    except (OSError, ValueError) as error:
        raise RayrieverError(f"{folder.path}: a shard of terms cannot be read ({error}). Build it again.") from error
    return TermShard(postings, kept)
