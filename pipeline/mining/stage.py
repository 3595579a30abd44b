"""The mine stage: hard negatives of every labelled train query, from the hits of an encoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpus.duplicates import representatives
from pipeline.index.search import MOST_HITS
from pipeline.mining.hits import search_all
from pipeline.mining.negatives import mine, search_depth
from pipeline.rankings import Hit
from pipeline.recipe import NegativesSection, Recipe
from pipeline.records import NEGATIVE
from pipeline.stage import Estimate, StageContext


def run(ctx: StageContext) -> None:
    """Write tables `hits` and `negatives`: up to `per_query` passages for every train query with a labelled positive.

    The hits are the base encoder's or, in a later round, those of the encoder that the round before has trained.
    """
    queries = ctx.inputs["queries"].table("queries")
    train = queries.filter(pc.equal(queries["split"], "train")).sort_by("query_id")
    texts = dict(zip(train["query_id"].to_pylist(), train["text"].to_pylist(), strict=True))
    positives = _positives(ctx)
    labelled = [query_id for query_id in texts if query_id in positives]
    ctx.out.outcomes["queries_without_positive"] = len(texts) - len(labelled)
    if not labelled:
        ctx.out.table("negatives", NEGATIVE.empty_table(), NEGATIVE)
        return
    section = ctx.recipe.negatives
    assert section is not None, "there is no mine stage without the section"
    tuned = "distill" in ctx.inputs
    depth = min(search_depth(section, max(len(positives[query_id]) for query_id in labelled)), MOST_HITS)
    asked = {query_id: texts[query_id] for query_id in labelled}
    found = search_all(ctx, "index_tuned" if tuned else "index_base", "distill" if tuned else None, asked, depth)
    same = representatives(ctx.inputs["corpus"].table("duplicates"))
    parts = (_mined(ctx, hits, positives, same, section) for hits in found)
    ctx.out.table("negatives", parts, NEGATIVE)


def _positives(ctx: StageContext) -> dict[str, set[str]]:
    judgments = ctx.inputs["queries"].table("judgments")
    relevant = judgments.filter(pc.greater(judgments["grade"], 0))
    positives: dict[str, set[str]] = defaultdict(set)
    for query_id, passage_id in zip(relevant["query_id"].to_pylist(), relevant["passage_id"].to_pylist(), strict=True):
        positives[query_id].add(passage_id)
    return dict(positives)


def _mined(
    ctx: StageContext,
    found: Mapping[str, Sequence[Hit]],
    positives: Mapping[str, set[str]],
    same: Mapping[str, str],
    section: NegativesSection,
) -> pa.Table:
    """Rows of `records.NEGATIVE` of the queries in `found`."""
    rows = []
    for query_id, hits in found.items():
        negatives, dropped = mine(hits, positives[query_id], same, section)
        ctx.out.outcomes.update(dropped)
        ctx.out.outcomes["queries_mined" if negatives else "queries_without_negative"] += 1
        rows += [{"query_id": query_id, **negative._asdict()} for negative in negatives]
    return pa.Table.from_pylist(rows, schema=NEGATIVE)


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    assert recipe.negatives is not None, "there is no mine stage without the section"
    rows = upstream["queries"].rows * recipe.negatives.per_query
    return Estimate(rows=rows, disk_bytes=rows * 16, note="if every query is a labelled train query")
