"""Stage 1 as several trainings: each mines its negatives with the encoder of the one before, and goes on from it.

The hits of the base encoder are soon no hard negatives any more (Xiong et al. 2021, ANCE, section 3). A round is a row
of ordinary stages, so that a killed run resumes inside it as anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.recipe import Recipe
from pipeline.stage import Estimate, Stage, StageContext

_OF_A_ROUND = ("distill", "encode_tuned", "index_tuned", "mine")


def in_rounds(stages: Sequence[Stage], rounds: int) -> list[Stage]:
    """The stages, and before `distill`, which stays the last training, those of `rounds - 1` others."""
    place = next(number for number, stage in enumerate(stages) if stage.name == "distill")
    by_name = {stage.name: stage for stage in stages}
    # Of a later round: the tuned encoder's own hits.
    by_name["mine"] = replace(by_name["mine"], inputs=("corpus", "queries", "distill", "index_tuned"))
    made: list[Stage] = []
    called: dict[str, str] = {}  # what a stage calls an input -> the stage whose artifact it is
    for number in range(1, rounds):
        for stage in map(by_name.__getitem__, _OF_A_ROUND):
            name = f"{stage.name}_round_{number}"
            made.append(_calling(replace(stage, name=name, summary=f"round {number}: {stage.summary}"), called))
            called = called | {stage.name: name}
        by_name["distill"] = replace(stages[place], inputs=(*stages[place].inputs, "distill"))
    return [*stages[:place], *made, _calling(by_name["distill"], called), *stages[place + 1 :]]


def _calling(stage: Stage, called: Mapping[str, str]) -> Stage:
    """The stage, with artifacts of other stages under the names by which it knows them."""
    names = {name: called.get(name, name) for name in stage.inputs}

    def run(ctx: StageContext) -> None:
        stage.run(replace(ctx, inputs={known: ctx.inputs[name] for known, name in names.items() if name in ctx.inputs}))

    def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
        return stage.estimate(recipe, {known: upstream[name] for known, name in names.items() if name in upstream})

    return replace(stage, inputs=tuple(names.values()), run=run, estimate=estimate)
