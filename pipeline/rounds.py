"""Trainings in rounds: each finds its examples with the model that the round before has trained.

The hits of the base encoder are soon no hard negatives any more (Xiong et al. 2021, ANCE, section 3); and a reranker
finds candidates that no first stage puts on top. A round is a row of ordinary stages, so that a killed run resumes
inside it as anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.recipe import Recipe
from pipeline.stage import Estimate, Stage, StageContext


def encoder_in_rounds(stages: Sequence[Stage], rounds: int) -> list[Stage]:
    """The stages, and before `distill`, which stays the last training, those of `rounds - 1` others."""
    by_name = {stage.name: stage for stage in stages}
    first, later = by_name["distill"], _also_reading(by_name["distill"], "distill")
    # Of a later round: the tuned encoder's own hits.
    mine = replace(by_name["mine"], inputs=("corpus", "queries", "distill", "index_tuned"))
    others = [by_name["encode_tuned"], by_name["index_tuned"], mine]
    made, called = _rounds([[first if number == 1 else later, *others] for number in range(1, rounds)])
    last = later if rounds > 1 else first
    return _in_place_of(stages, "distill", [*made, _calling(last, called)])


def reranker_in_rounds(stages: Sequence[Stage], rounds: int) -> list[Stage]:
    """The stages, and before `candidates`, whose reranker is the one that stays, those of `rounds - 1` others."""
    by_name = {stage.name: stage for stage in stages}
    first, later = by_name["candidates"], _also_reading(by_name["candidates"], "rerank")
    others = [by_name["permutations"], by_name["rerank"]]
    made, called = _rounds([[first if number == 1 else later, *others] for number in range(1, rounds)])
    last = later if rounds > 1 else first
    return _in_place_of(stages, "candidates", [*made, _calling(last, {"rerank": called.get("rerank", "rerank")})])


def _also_reading(stage: Stage, name: str) -> Stage:
    return replace(stage, inputs=(*stage.inputs, name))


def _rounds(rounds: Sequence[Sequence[Stage]]) -> tuple[list[Stage], dict[str, str]]:
    """The stages of all rounds, and for what a stage calls an input, the stage whose artifact it is afterwards."""
    made: list[Stage] = []
    called: dict[str, str] = {}
    for number, stages in enumerate(rounds, start=1):
        for stage in stages:
            name = f"{stage.name}_round_{number}"
            made.append(_calling(replace(stage, name=name, summary=f"round {number}: {stage.summary}"), called))
            called = called | {stage.name: name}
    return made, called


def _in_place_of(stages: Sequence[Stage], name: str, instead: Sequence[Stage]) -> list[Stage]:
    """The stages with others in place of the one of that name."""
    place = next(number for number, stage in enumerate(stages) if stage.name == name)
    return [*stages[:place], *instead, *stages[place + 1 :]]


def _calling(stage: Stage, called: Mapping[str, str]) -> Stage:
    """The stage, with artifacts of other stages under the names by which it knows them."""
    names = {name: called.get(name, name) for name in stage.inputs}

    def run(ctx: StageContext) -> None:
        stage.run(replace(ctx, inputs={known: ctx.inputs[name] for known, name in names.items() if name in ctx.inputs}))

    def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
        return stage.estimate(recipe, {known: upstream[name] for known, name in names.items() if name in upstream})

    return replace(stage, inputs=tuple(names.values()), run=run, estimate=estimate)
