"""One list of candidates from the hits of several sources, with where each of them came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline import records
from pipeline.fusion import reciprocal_rank
from pipeline.rankings import Hit


@dataclass(frozen=True)
class Found:
    """A source's hit."""

    source: str
    rank: int  # from 1, in the source's own list
    score: float


@dataclass(frozen=True)
class Candidate:
    """A passage of a merged list."""

    passage_id: str
    score: float  # of the merged list
    found: tuple[Found, ...]  # by source, in the order in which sources are named


Lists = Mapping[str, Sequence[Hit]]  # source -> hits of one query, best first


def distinct(hits: Sequence[Hit], same: Mapping[str, str]) -> list[Hit]:
    """The hits without near-duplicates of a better one, every passage under the name of the first of its group.

    Args:
        same: passage id -> first of its near-duplicates; others stand for themselves.
    """
    best: dict[str, float] = {}
    for hit in hits:
        best.setdefault(same.get(hit.passage_id, hit.passage_id), hit.score)
    return [Hit(*each) for each in best.items()]


def union(lists: Lists, size: int, floor: int, rrf_k: int) -> list[Candidate]:
    """All sources' hits fused by reciprocal rank, cut to `size`, with each source's `floor` best among them.

    Passages must be `distinct` already. The order is that of the fused scores, equal ones by passage id.
    """
    every = reciprocal_rank(list(lists.values()), rrf_k, sum(map(len, lists.values())))
    floor = min(floor, size // max(1, len(lists)))
    assured = {hit.passage_id for hits in lists.values() for hit in hits[:floor]}
    others = [hit.passage_id for hit in every if hit.passage_id not in assured][: size - len(assured)]
    taken = assured | set(others)
    where = _where(lists)
    return [
        Candidate(hit.passage_id, hit.score, tuple(where[hit.passage_id])) for hit in every if hit.passage_id in taken
    ]


def one_source(source: str, hits: Sequence[Hit], size: int) -> list[Candidate]:
    """The list of a query for which one source alone was asked."""
    ranked = enumerate(hits[:size], start=1)
    return [Candidate(hit.passage_id, hit.score, (Found(source, rank, hit.score),)) for rank, hit in ranked]


def _where(lists: Lists) -> dict[str, list[Found]]:
    where: dict[str, list[Found]] = {}
    for source, hits in lists.items():
        for rank, hit in enumerate(hits, start=1):
            where.setdefault(hit.passage_id, []).append(Found(source, rank, hit.score))
    return where


def to_table(candidates: Iterable[tuple[str, Sequence[Candidate]]]) -> pa.Table:
    """Rows of `records.CANDIDATE`, of (query id, its list)."""
    rows = [
        {
            "query_id": query_id,
            "passage_id": each.passage_id,
            "rank": rank,
            "score": each.score,
            "sources": [found.source for found in each.found],
            "ranks": [found.rank for found in each.found],
            "scores": [found.score for found in each.found],
        }
        for query_id, of_query in candidates
        for rank, each in enumerate(of_query, start=1)
    ]
    return pa.Table.from_pylist(rows, schema=records.CANDIDATE)
