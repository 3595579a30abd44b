"""Measure a finished index with a run's own queries."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifact import Artifact
from pipeline.errors import RayrieverError
from pipeline.index.check import Quality, measure
from pipeline.mining.search import open_index
from pipeline.recipe import Recipe


def check(recipe: Recipe, index: Artifact, model: Path | None, queries: Artifact, most: int) -> Quality:
    """Quality of an index on up to `most` queries: of dev and test, or of train where there are no others.

    Args:
        model: folder of the encoder that made the vectors; None is the recipe's base encoder.
    """
    table = queries.table("queries").sort_by("query_id")
    evaluated = table.filter(pc.is_in(table["split"], pa.array(["dev", "test"])))
    chosen = (evaluated if evaluated.num_rows else table).slice(0, most)
    if not chosen.num_rows:
        raise RayrieverError("index: the run has no queries to search. Give some, or set queries.generate.")
    with open_index(recipe, index, model) as (encoder, shards):
        return measure(shards, encoder.encode_queries(chosen["text"].to_pylist()))
