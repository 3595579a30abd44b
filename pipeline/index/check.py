"""How good an index is: what its search finds of what there is, how long it takes, and what it costs to keep."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.index.search import ShardedIndex
from pipeline.index.tuning import recall
from pipeline.sharded.folder import VECTORS

_DEPTHS = (1, 10, 100)
_SINGLES = 50


@dataclass(frozen=True)
class Quality:
    """Measured through the actors that search."""

    queries: int
    recall: dict[int, float]  # by depth: mean share of the exact top that the search found
    query_ms_p50: float  # of one query at a time, top 10
    query_ms_p95: float
    queries_per_s: float  # all at once, top 10
    bytes_per_vector: float


def measure(index: ShardedIndex, queries: npt.NDArray[np.float32]) -> Quality:
    """Search the queries `[n, d]`, n >= 1, as users would, and once more by comparing every vector.

    The checksum of every shard's files has been compared when this returns: a damaged shard raises RayrieverError.
    """
    index.shards.wait_until_ready()
    rows = index.generation.rows(VECTORS)
    deepest = min(max(_DEPTHS), rows)
    exact = _ids(index, queries, deepest, exact=True)
    found = _ids(index, queries, deepest)
    started = time.perf_counter()
    index.search(queries, 10)
    together = time.perf_counter() - started
    singles = []
    for query in queries[:_SINGLES]:
        started = time.perf_counter()
        index.search(query[None], 10)
        singles.append((time.perf_counter() - started) * 1000)
    return Quality(
        queries=len(queries),
        recall={
            depth: recall([ids[:depth] for ids in exact], [ids[:depth] for ids in found])
            for depth in _DEPTHS
            if depth <= deepest
        },
        query_ms_p50=float(np.percentile(singles, 50)),
        query_ms_p95=float(np.percentile(singles, 95)),
        queries_per_s=len(queries) / together,
        bytes_per_vector=index.generation.bytes / max(1, rows),
    )


def _ids(index: ShardedIndex, queries: npt.NDArray[np.float32], k: int, exact: bool = False) -> list[list[str]]:
    answers = index.answers(queries, k, exact=exact)
    return [[hit.passage_id for hit in hits] for answer in answers for hits in answer.whole().hits()]
