"""Score an encoder on the dev queries during training, over a sample of the corpus."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import ir_measures
import numpy as np

from pipeline.corpus.texts import passage_texts
from pipeline.encoder.side import PASSAGE, QUERY
from pipeline.queries.read import relevant_passages, split_queries
from pipeline.stage import StageContext
from pipeline.training.bi_encoder import BiEncoder

_DEPTH = 10


@dataclass(frozen=True)
class DevSet:
    """Dev queries, their judgments, and the passages they are ranked against; plain data that travels to workers."""

    queries: Mapping[str, str]
    judgments: Mapping[str, Mapping[str, int]]  # query id -> passage id -> grade
    passages: Mapping[str, str]


def dev_set(ctx: StageContext, size: int) -> DevSet | None:
    """The judged dev queries and `size` passages of the corpus; None without judged dev queries."""
    rows = split_queries(ctx, "dev")
    judgments = relevant_passages(ctx, rows["query_id"].combine_chunks())
    texts = zip(rows["query_id"].to_pylist(), rows["text"].to_pylist(), strict=True)
    queries = {query_id: text for query_id, text in texts if query_id in judgments}
    if not queries:
        return None
    judged = {passage_id for grades in judgments.values() for passage_id in grades}
    corpus = ctx.inputs["corpus"]
    every_id = corpus.table("passages", columns=["passage_id"])["passage_id"].to_pylist()
    chosen = choose_passages(judged, every_id, size, ctx.recipe.seed)
    passages = passage_texts(corpus, chosen)
    return DevSet(queries, dict(judgments), {i: passages[i] for i in chosen if i in passages})


def choose_passages(judged: set[str], every_id: list[str], size: int, seed: int) -> list[str]:
    """The judged passages and a seeded sample of the others, `size` together unless more are judged."""
    others = [passage_id for passage_id in every_id if passage_id not in judged]
    room = min(max(0, size - len(judged)), len(others))
    return sorted(judged | set(random.Random(seed).sample(others, room)))


def dev_score(model: BiEncoder, dev: DevSet) -> float:
    """Mean nDCG@10 over the dev queries, ranked by exact search in the dev passages."""
    queries = model.vectors(list(dev.queries.values()), QUERY)
    passages = model.vectors(list(dev.passages.values()), PASSAGE)
    ids = list(dev.passages)
    run = {}
    for query_id, row in zip(dev.queries, (queries @ passages.T).numpy(), strict=True):
        best = np.argsort(-row, kind="stable")[:_DEPTH]
        run[query_id] = {ids[column]: float(row[column]) for column in best}
    judgments = {query_id: dict(grades) for query_id, grades in dev.judgments.items()}
    measure = ir_measures.nDCG @ _DEPTH
    return float(ir_measures.calc_aggregate([measure], judgments, run)[measure])
