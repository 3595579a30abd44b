"""Stage 2 of Syntriever: align the tuned encoder with the LLM's preferences (Kim & Baek 2025, section 2.3)."""

from __future__ import annotations

from dataclasses import replace

from pipeline.artifact import Artifact
from pipeline.errors import RayrieverError
from pipeline.records import TRAINING_EXAMPLE
from pipeline.stage import StageContext
from pipeline.training.dev import dev_set
from pipeline.training.job import TrainingSet
from pipeline.training.join import Sources, as_tables
from pipeline.training.sampler import Dataset


def run(ctx: StageContext) -> None:
    """Write tables `examples`, `curve`, `metrics` and folder `model`, as the distill stage does."""
    from pipeline.training.encoder_learner import EncoderTrainee
    from pipeline.training.fit import fit

    section = ctx.recipe.align
    assert section is not None
    sources = Sources(
        ctx,
        (),
        graded=section.loss in ("listwise", "margin_mse"),
        pairs=section.of_pairs,
        labels=ctx.recipe.distill.labels,
    )
    usable = (lambda each: each.grades) if sources.graded else (lambda each: each.orders)
    tables = as_tables(sources.examples(), usable, ctx.out.outcomes, "examples_without_preference")
    rows = ctx.out.table("examples", tables, TRAINING_EXAMPLE)
    if rows < max(2, section.workers):
        raise RayrieverError(
            f"align: {rows} train queries with a preference; there must be at least two, and one per worker. "
            "Look at the outcomes of the preferences stage (rayriever status), or raise preferences.max_queries."
        )
    examples = TrainingSet(ctx.out.parts("examples"), (Dataset(0, rows),))
    if section.replay:
        examples = with_replay(examples, ctx.inputs["distill"], section.replay)
    start, dev = ctx.inputs["distill"].manifest.place, dev_set(ctx, section.dev_passages)
    fit(ctx, "align", section, examples, EncoderTrainee(ctx.recipe.encoder, start, ctx.recipe.distill, section, dev))


def with_replay(preferred: TrainingSet, stage_1: Artifact, visits: float) -> TrainingSet:
    """Stage 1's examples behind those of stage 2, as they lie, visited `visits` times for each visit of the latter.

    Its datasets keep their proportions.
    """
    rows = sum(dataset.rows for dataset in preferred.datasets)
    replayed = [Dataset(**row) for row in stage_1.table("datasets").to_pylist()]
    share = visits * rows / sum(dataset.rows * dataset.weight for dataset in replayed)
    behind = (replace(each, start=each.start + rows, weight=each.weight * share) for each in replayed)
    return TrainingSet([*preferred.parts, *stage_1.parts("examples")], (*preferred.datasets, *behind), rows)
