"""Read the finished queries stage: the queries of a split, and what is relevant to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifact import Artifact
from pipeline.records import QUERY
from pipeline.stage import StageContext

EVALUATED = ("dev", "test")


def judged_queries(queries: Artifact) -> pa.Table:
    """Rows of records.QUERY of dev and test that have a judgment, by query id."""
    table, judgments = queries.table("queries"), queries.table("judgments")
    evaluated = pc.is_in(table["split"], pa.array(EVALUATED))
    judged = pc.is_in(table["query_id"], judgments["query_id"].combine_chunks())
    return table.filter(pc.and_(evaluated, judged)).sort_by("query_id")


def split_queries(ctx: StageContext, split: str, columns: Sequence[str] = ("query_id", "text")) -> pa.Table:
    """Columns of records.QUERY of one split, by query id; no other split is in memory."""
    batches = ctx.inputs["queries"].batches("queries", [*columns, "split"])
    chosen = [batch.filter(pc.equal(batch["split"], split)).select(columns) for batch in batches]
    return pa.concat_tables(chosen or [QUERY.empty_table().select(columns)]).sort_by("query_id")


def relevant_passages(ctx: StageContext, query_ids: pa.Array) -> dict[str, dict[str, int]]:
    """Query id -> relevant passage id -> grade, of the given queries."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for batch in ctx.inputs["queries"].batches("judgments"):
        chosen = pc.and_(pc.is_in(batch["query_id"], query_ids), pc.greater(batch["grade"], 0))
        for row in batch.filter(chosen).to_pylist():
            found[row["query_id"]][row["passage_id"]] = row["grade"]
    return found
