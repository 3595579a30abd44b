"""The mine stage: hard negatives of every labelled train query, from the hits of an encoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpus.duplicates import representatives
from pipeline.mining.negatives import mine, search_depth
from pipeline.mining.search import Search, open_search
from pipeline.recipe import NegativesSection, Recipe
from pipeline.records import NEGATIVE
from pipeline.stage import Estimate, StageContext

# Queries searched together: bounds the memory for their hits, up to a thousand each.
_BLOCK = 2048


def run(ctx: StageContext) -> None:
    """Write table `negatives`: up to `per_query` passages for every train query with a labelled positive.

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
    model = ctx.inputs["distill"].directory("model") if "distill" in ctx.inputs else None
    with open_search(ctx.recipe, ctx.inputs["index_tuned" if model else "index_base"], model) as search:
        ctx.out.table("negatives", _blocks(ctx, search, labelled, texts, positives), NEGATIVE)


def _positives(ctx: StageContext) -> dict[str, set[str]]:
    judgments = ctx.inputs["queries"].table("judgments")
    relevant = judgments.filter(pc.greater(judgments["grade"], 0))
    positives: dict[str, set[str]] = defaultdict(set)
    for query_id, passage_id in zip(relevant["query_id"].to_pylist(), relevant["passage_id"].to_pylist(), strict=True):
        positives[query_id].add(passage_id)
    return dict(positives)


def _blocks(
    ctx: StageContext,
    search: Search,
    query_ids: Sequence[str],
    texts: Mapping[str, str],
    positives: Mapping[str, set[str]],
) -> Iterator[pa.Table]:
    """Rows of `records.NEGATIVE` of one block of queries after another."""
    section = ctx.recipe.negatives
    assert section is not None, "there is no mine stage without the section"
    same = representatives(ctx.inputs["corpus"].table("duplicates"))
    for start in range(0, len(query_ids), _BLOCK):
        block = {query_id: positives[query_id] for query_id in query_ids[start : start + _BLOCK]}
        yield _mine_block(ctx, search, texts, block, same, section)
        ctx.progress.update("queries mined", start + len(block), len(query_ids))


def _mine_block(
    ctx: StageContext,
    search: Search,
    texts: Mapping[str, str],
    positives: Mapping[str, set[str]],
    same: Mapping[str, str],
    section: NegativesSection,
) -> pa.Table:
    depth = search_depth(section, max(map(len, positives.values())))
    found = search([texts[query_id] for query_id in positives], depth)
    rows = []
    for (query_id, known), hits in zip(positives.items(), found, strict=True):
        negatives, dropped = mine(hits, known, same, section)
        ctx.out.outcomes.update(dropped)
        ctx.out.outcomes["queries_mined" if negatives else "queries_without_negative"] += 1
        rows += [{"query_id": query_id, **negative._asdict()} for negative in negatives]
    return pa.Table.from_pylist(rows, schema=NEGATIVE)


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    assert recipe.negatives is not None, "there is no mine stage without the section"
    rows = upstream["queries"].rows * recipe.negatives.per_query
    return Estimate(rows=rows, disk_bytes=rows * 16, note="if every query is a labelled train query")
