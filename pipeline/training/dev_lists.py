"""Score a reranker in training: it puts a first stage's hits of the dev queries in order."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ir_measures

from pipeline.corpus.texts import passage_texts
from pipeline.mining.search import fused_hits
from pipeline.queries.read import relevant_passages, split_queries
from pipeline.recipe import RerankSection
from pipeline.stage import StageContext

_CUT = 10


@dataclass(frozen=True)
class DevLists:
    """Judged dev queries and their hits, in the order of the first stage; plain data that travels to workers."""

    queries: Mapping[str, str]
    judgments: Mapping[str, Mapping[str, int]]  # query id -> passage id -> grade
    hits: Mapping[str, tuple[str, ...]]
    passages: Mapping[str, str]


def dev_lists(ctx: StageContext, section: RerankSection) -> DevLists | None:
    """A seeded sample of the judged dev queries, with the hits of BM25 and the newest encoder; None without any."""
    rows = split_queries(ctx, "dev")
    judgments = relevant_passages(ctx, rows["query_id"].combine_chunks())
    texts = dict(zip(rows["query_id"].to_pylist(), rows["text"].to_pylist(), strict=True))
    ids = [query_id for query_id in texts if query_id in judgments]
    if not ids:
        return None
    if len(ids) > section.dev_queries:
        ids = sorted(random.Random(ctx.recipe.seed).sample(ids, section.dev_queries))
    asked = [texts[query_id] for query_id in ids]
    fused = fused_hits(ctx.recipe, ctx.inputs, asked, section.dev_depth)
    hits = {query_id: tuple(hit.passage_id for hit in each) for query_id, each in zip(ids, fused, strict=True)}
    passages = passage_texts(ctx.inputs["corpus"], {passage_id for each in hits.values() for passage_id in each})
    return DevLists({query_id: texts[query_id] for query_id in ids}, {i: judgments[i] for i in ids}, hits, passages)


def dev_list_score(score: Callable[[list[tuple[str, str]]], list[float]], dev: DevLists) -> float:
    """Mean nDCG@10 over the dev queries, each list in the order of its scores, equal ones as the first stage has them.

    Args:
        score: of (query, passage) pairs.
    """
    pairs = [(dev.queries[query_id], dev.passages[i]) for query_id, ids in dev.hits.items() for i in ids]
    scores = iter(score(pairs))
    run = {}
    for query_id, ids in dev.hits.items():
        ranked = sorted(((next(scores), -place, i) for place, i in enumerate(ids)), reverse=True)
        # Ranks as scores: trec_eval would break ties by passage id.
        run[query_id] = {passage_id: -float(rank) for rank, (_, _, passage_id) in enumerate(ranked[:_CUT])}
    judgments = {query_id: dict(grades) for query_id, grades in dev.judgments.items()}
    measure = ir_measures.nDCG @ _CUT
    return float(ir_measures.calc_aggregate([measure], judgments, run)[measure])
