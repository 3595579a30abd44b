"""What the LLM compares: each query's hits of the tuned encoder, which of them are labelled, and their texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpus.duplicates import representatives
from pipeline.mining.hits import search_all
from pipeline.rankings import Hit
from pipeline.records import full_text
from pipeline.stage import StageContext


def top_hits(ctx: StageContext, queries: Mapping[str, str], top_k: int) -> dict[str, list[Hit]]:
    """The top K of each query without near-duplicates of a better hit: between those there is nothing to choose."""
    if not queries:
        return {}
    same = representatives(ctx.inputs["corpus"].table("duplicates"))
    candidates = {}
    found = search_all(ctx, "index_tuned", "distill", queries, top_k)
    for query_id, hits in (each for part in found for each in part.items()):
        distinct: dict[str, Hit] = {}
        for hit in hits:
            distinct.setdefault(same.get(hit.passage_id, hit.passage_id), hit)
        ctx.out.outcomes["near_duplicates_removed"] += len(hits) - len(distinct)
        candidates[query_id] = list(distinct.values())
    return candidates


def labelled(ctx: StageContext, candidates: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """Candidates that are labelled relevant, or repeat a passage that is, by query id."""
    same = representatives(ctx.inputs["corpus"].table("duplicates"))
    relevant: dict[str, set[str]] = defaultdict(set)
    for row in ctx.inputs["queries"].table("judgments").to_pylist():
        if row["grade"] > 0:
            relevant[row["query_id"]].add(same.get(row["passage_id"], row["passage_id"]))
    return {
        query_id: {passage_id for passage_id in ids if same.get(passage_id, passage_id) in relevant[query_id]}
        for query_id, ids in candidates.items()
    }


def shown_passages(ctx: StageContext, candidates: Mapping[str, Sequence[str]], max_words: int) -> dict[str, str]:
    """Title and text of every candidate as the LLM reads them, by passage id."""
    wanted = sorted({passage_id for ids in candidates.values() for passage_id in ids})
    passages = ctx.inputs["corpus"].table("passages", columns=["passage_id", "title", "text"])
    chosen = passages.filter(pc.is_in(passages["passage_id"], pa.array(wanted, pa.string())))
    return {
        row["passage_id"]: " ".join(full_text(row["title"], row["text"]).split()[:max_words])
        for row in chosen.to_pylist()
    }
