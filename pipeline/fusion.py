"""Rankings of the same queries merged into one: by rank alone, or by a weighted sum of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.rankings import Hit, Rankings, best


def reciprocal_rank(rankings: Sequence[Sequence[Hit]], rrf_k: int, top_k: int) -> list[Hit]:
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


def weighted_sum(dense: Sequence[Hit], lexical: Sequence[Hit], lexical_weight: float, top_k: int) -> list[Hit]:
    """Cosine plus the weighted share of the best BM25 score; equal sums are ordered by passage id.

    BM25 has no upper end, so its scores count as shares of the query's best. What only BM25 found has at most the
    cosine of the last dense hit, and gets that; what only the encoder found has no BM25 score.
    """
    floor = dense[-1].score if dense else 0.0
    highest = lexical[0].score if lexical else 1.0
    cosines = {hit.passage_id: hit.score for hit in dense}
    shares = {hit.passage_id: hit.score / highest for hit in lexical}
    either = cosines.keys() | shares.keys()
    return best({i: cosines.get(i, floor) + lexical_weight * shares.get(i, 0.0) for i in either}, top_k)


def fuse_all(systems: Sequence[Rankings], rrf_k: int, top_k: int) -> dict[str, list[Hit]]:
    """Merge the systems' rankings by rank, query by query; one without hits for a query adds nothing to it.

    Queries come in the order in which the systems, one after the other, first name them.
    """
    query_ids = dict.fromkeys(query_id for rankings in systems for query_id in rankings)
    return {
        query_id: reciprocal_rank([rankings.get(query_id, ()) for rankings in systems], rrf_k, top_k)
        for query_id in query_ids
    }


def weigh_all(dense: Rankings, lexical: Rankings, lexical_weight: float, top_k: int) -> dict[str, list[Hit]]:
    """Merge both by weighted sum, for every query of `dense`."""
    return {
        query_id: weighted_sum(hits, lexical.get(query_id, ()), lexical_weight, top_k)
        for query_id, hits in dense.items()
    }
