"""Stage 2 of Syntriever: align the tuned encoder with the LLM's preferences (Kim & Baek 2025, section 2.3)."""

from __future__ import annotations

from pipeline.errors import RayrieverError
from pipeline.records import TRAINING_EXAMPLE
from pipeline.stage import StageContext
from pipeline.training.dev import dev_set
from pipeline.training.distill import has_positive
from pipeline.training.examples import Example
from pipeline.training.join import Sources, as_tables
from pipeline.training.sampler import Dataset


def run(ctx: StageContext) -> None:
    """Write tables `examples`, `curve`, `metrics` and folder `model`, as the distill stage does."""
    from pipeline.training.fit import fit

    section = ctx.recipe.align
    assert section is not None

    def usable(example: Example) -> bool:
        return bool(example.orders or example.grades) and (section.replay == 0 or has_positive(example))

    sources = Sources(
        ctx,
        ctx.recipe.distill.synthetic if section.replay else (),
        align=True,
        graded=section.loss in ("listwise", "margin_mse"),
        pairs=section.loss == "bradley_terry" or (section.loss == "partial_pl" and section.depth in (1, 2)),
        labels=ctx.recipe.distill.labels,
    )
    tables = as_tables(sources.examples(), usable, ctx.out.outcomes, "examples_without_preference")
    rows = ctx.out.table("examples", tables, TRAINING_EXAMPLE)
    if rows < max(2, section.workers):
        raise RayrieverError(
            f"align: {rows} train queries with a preference; there must be at least two, and one per worker. "
            "Look at the outcomes of the preferences stage (rayriever status), or raise preferences.max_queries."
        )
    start = ("distill", ctx.inputs["distill"].manifest.key)
    fit(ctx, "align", section, [Dataset(0, rows)], dev_set(ctx, section.dev_passages), start)
