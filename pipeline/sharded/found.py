"""What one shard finds, and several shards' findings merged into one ranking. Knows nothing of FAISS, BM25 or Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.rankings import Hit


@dataclass(frozen=True)
class Found:
    """The best passages of n queries: score descending, ties by ascending id, short rows padded at their end.

    Plain arrays instead of hits, because thousands of these cross from the shards to the driver.
    """

    scores: npt.NDArray[np.float32]  # [n, k]; -inf is padding
    ids: pa.Array  # strings, n * k of them, row by row; null is padding

    def hits(self) -> list[list[Hit]]:
        """One list per query, without the padding."""
        k = self.scores.shape[1]
        ids, scores = self.ids.to_pylist(), self.scores.tolist()
        counts = np.isfinite(self.scores).sum(axis=1).tolist()
        return [
            list(map(Hit._make, zip(ids[row * k : row * k + count], scores[row], strict=False)))
            for row, count in enumerate(counts)
        ]


def empty(queries: int) -> Found:
    """Nothing found for so many queries."""
    return Found(np.empty((queries, 0), dtype=np.float32), pa.array([], pa.string()))


def merge(answers: Sequence[Found], k: int) -> Found:
    """The k best of several shards' findings for the same queries.

    Equal to the ranking of one index over all passages when every shard gave its exact top k.
    """
    scores = np.concatenate([each.scores for each in answers], axis=1)
    ids = pa.concat_arrays([each.ids.cast(pa.large_string()) for each in answers])
    places = _places(answers)
    order = np.argsort(-scores, axis=1, kind="stable")
    sorted_scores = np.take_along_axis(scores, order, axis=1)
    tied = (sorted_scores[:, :-1] == sorted_scores[:, 1:]) & np.isfinite(sorted_scores[:, 1:])
    for row in np.flatnonzero(tied[:, :k].any(axis=1)):
        order[row] = _by_score_and_id(scores[row], ids.take(pa.array(places[row])).to_pylist())
    order = order[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    return Found(best, ids.take(pa.array(np.take_along_axis(places, order, axis=1).ravel())))


def _places(answers: Sequence[Found]) -> npt.NDArray[np.int64]:
    """`[n, sum of k]` where each column's id lies in the concatenation of all ids."""
    columns, start = [], 0
    for each in answers:
        columns.append(start + np.arange(each.scores.size).reshape(each.scores.shape))
        start += each.scores.size
    return np.concatenate(columns, axis=1)


def _by_score_and_id(scores: npt.NDArray[np.float32], ids: list[str | None]) -> list[int]:
    return sorted(range(len(ids)), key=lambda place: (-scores[place], ids[place] or ""))


def best_rows(scores: npt.NDArray[np.float32], k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Scores and rows of the `k` highest of `[rows]` scores above 0, equal scores by row, also at the cut-off."""
    places = np.flatnonzero(scores > 0)
    if len(places) > k:
        # Libraries cut ties at random places: all that tie with the last one are kept until they are sorted.
        last = np.partition(scores[places], -k)[-k]
        places = places[scores[places] >= last]
    order = np.lexsort((places, -scores[places]))[:k]
    return scores[places[order]], places[order]
