"""Rankings as plain lists and as Arrow tables of `records.HIT`. Knows nothing of what produced them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import records


class Hit(NamedTuple):
    """A passage with its score; where it stands in its list is its rank."""

    passage_id: str
    score: float


Rankings = Mapping[str, Sequence[Hit]]  # query id -> hits, best first


def best(scores: Mapping[str, float], top_k: int) -> list[Hit]:
    """The `top_k` passages by score, equal scores by ascending passage id, also at the cut-off."""
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return [Hit(*item) for item in ordered[:top_k]]


def rerank(hits: Sequence[Hit], scores: Sequence[float] | npt.NDArray[np.float32]) -> list[Hit]:
    """The hits with new scores, best first; equal scores keep the order they had."""
    scored = [Hit(hit.passage_id, float(score)) for hit, score in zip(hits, scores, strict=True)]
    return sorted(scored, key=lambda hit: -hit.score)


def to_table(system: str, rankings: Rankings) -> pa.Table:
    """Rows of `records.HIT`, ranks counted from 1; queries keep the order of the mapping."""
    query_ids = [query_id for query_id, hits in rankings.items() for _ in hits]
    ranks = [rank for hits in rankings.values() for rank in range(1, len(hits) + 1)]
    passage_ids = [hit.passage_id for hits in rankings.values() for hit in hits]
    scores = [hit.score for hits in rankings.values() for hit in hits]
    columns = [[system] * len(ranks), query_ids, passage_ids, ranks, scores]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, records.HIT, strict=True)]
    return pa.Table.from_arrays(arrays, schema=records.HIT)


def from_table(hits: pa.Table, system: str, depth: int | None = None) -> dict[str, list[Hit]]:
    """Rankings of one system in the order of the rank column, down to rank `depth`.

    Raises ValueError when a query has two hits of one rank, or one passage twice.
    """
    rows = hits.filter(pc.equal(hits["system"], system))
    if depth is not None:
        rows = rows.filter(pc.less_equal(rows["rank"], depth))
    rows = rows.sort_by([("query_id", "ascending"), ("rank", "ascending")])
    rankings: dict[str, list[Hit]] = {}
    columns = (rows[name].to_pylist() for name in ("query_id", "passage_id", "rank", "score"))
    place: tuple[str, int] | None = None
    seen: set[str] = set()
    for query_id, passage_id, rank, score in zip(*columns, strict=True):
        if (query_id, rank) == place:
            raise ValueError(f"{system}: query {query_id!r} has two hits of rank {rank}.")
        if query_id not in rankings:
            seen = set()
        if passage_id in seen:
            raise ValueError(f"{system}: query {query_id!r} ranks passage {passage_id!r} twice.")
        place = (query_id, rank)
        seen.add(passage_id)
        rankings.setdefault(query_id, []).append(Hit(passage_id, score))
    return rankings
