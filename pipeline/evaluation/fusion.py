"""Reciprocal rank fusion: several rankings of the same queries merged by rank alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.rankings import Hit, Rankings, best


def fuse(rankings: Sequence[Sequence[Hit]], rrf_k: int, top_k: int) -> list[Hit]:
    """Merge rankings of one query: a passage scores the sum of 1 / (rrf_k + rank), ranks from 1.

    Cormack, Clarke & Buettcher 2009, section 2. Equal sums are ordered by passage id.
    Raises ValueError when a ranking holds a passage twice.
    """
    terms: dict[str, list[float]] = {}
    for ranking in rankings:
        if len({hit.passage_id for hit in ranking}) < len(ranking):
            raise ValueError("a ranking holds a passage twice; it would be counted twice.")
        for rank, hit in enumerate(ranking, start=1):
            terms.setdefault(hit.passage_id, []).append(1 / (rrf_k + rank))
    # fsum rounds once: a plain sum would break ties by the order in which the rankings are given.
    return best({passage_id: math.fsum(each) for passage_id, each in terms.items()}, top_k)


def fuse_all(systems: Sequence[Rankings], rrf_k: int, top_k: int) -> dict[str, list[Hit]]:
    """Merge the systems' rankings query by query; a system without hits for a query adds nothing to it.

    Queries come in the order in which the systems, one after the other, first name them.
    """
    query_ids = dict.fromkeys(query_id for rankings in systems for query_id in rankings)
    return {
        query_id: fuse([rankings.get(query_id, ()) for rankings in systems], rrf_k, top_k) for query_id in query_ids
    }
