"""TWOLAR's student: a reranker that learns the teacher's lists (Baldelli et al. 2024, section 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline.corpus.texts import passage_texts
from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe
from pipeline.records import RERANKING_EXAMPLE
from pipeline.scorer.named import trained_reranker
from pipeline.stage import Estimate, StageContext
from pipeline.training.dev_lists import dev_lists
from pipeline.training.job import TrainingSet
from pipeline.training.sampler import Dataset

# Lists joined with their texts at once
_BLOCK = 1024


def run(ctx: StageContext) -> None:
    """Write tables `examples`, `curve`, `metrics` and folder `model`: the checkpoint best on dev."""
    from pipeline.training.fit import fit
    from pipeline.training.reranker_learner import RerankerTrainee

    section = ctx.recipe.rerank
    assert section is not None, "there is no rerank stage without the section"
    rows = ctx.out.table("examples", _examples(ctx), RERANKING_EXAMPLE)
    if rows < max(2, section.workers):
        raise RayrieverError(
            f"rerank: {rows} lists with an order; there must be at least two, and one per worker. Look at the outcomes "
            "of the permutations stage (rayriever status), or raise candidates.max_queries."
        )
    examples = TrainingSet(ctx.out.parts("examples"), (Dataset(0, rows),))
    fit(ctx, "rerank", section, examples, RerankerTrainee(ctx.recipe.scorer, section, dev_lists(ctx, section)))


def _examples(ctx: StageContext) -> Iterator[pa.Table]:
    """The teacher's lists with the texts of their passages; lists without a decided pair teach nothing."""
    lists = ctx.inputs["permutations"].table("lists")
    for start in range(0, lists.num_rows, _BLOCK):
        rows = lists.slice(start, _BLOCK).to_pylist()
        usable = [row for row in rows if any(row["confidence"])]
        ctx.out.outcomes["lists_without_order"] += len(rows) - len(usable)
        texts = passage_texts(ctx.inputs["corpus"], {i for row in usable for i in row["passage_ids"]})
        for row in usable:
            row["passages"] = [texts[passage_id] for passage_id in row["passage_ids"]]
        ctx.out.outcomes["lists"] += len(usable)
        yield pa.Table.from_pylist(
            [{name: row[name] for name in RERANKING_EXAMPLE.names} for row in usable], schema=RERANKING_EXAMPLE
        )


def external(recipe: Recipe) -> Any:
    """Stands for the weights that training starts from, and for the hits that dev reranks."""
    from pipeline.models import locate

    model = trained_reranker(recipe.scorer.model, "scorer.model")
    return {"model": locate(model).fingerprint, "rrf_k": recipe.evaluate.rrf_k}


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    rows = upstream["permutations"].rows
    return Estimate(rows=rows, disk_bytes=500_000_000, note="one reranker, twice with its optimiser while training")
