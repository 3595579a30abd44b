"""What a training is given, where it stands, and what it returns: the data that travels to and from its workers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pipeline.recipe import AlignSection, DistillSection, EncoderSection, TrainingSection
from pipeline.training import objective
from pipeline.training.batch import Visit
from pipeline.training.dev import DevSet
from pipeline.training.objective import Objective
from pipeline.training.sampler import Dataset
from pipeline.training.step import StepRecipe

STATE = "state.json"
SCORE = "dev_ndcg_at_10"

Curve = list[dict[str, float | None]]


@dataclass(frozen=True)
class TrainingSet:
    """Examples on disk, and which of them share batches."""

    parts: list[str]  # Parquet parts on the workspace's filesystem, in the order of their rows
    datasets: tuple[Dataset, ...]
    replayed_from: int | None = None  # row from which on they are stage 1's, in stage 2; None for none


@dataclass(frozen=True)
class Task:
    """How the examples of a batch are visited, and what is minimised over them."""

    visit: Visit
    step: StepRecipe


@dataclass(frozen=True)
class TrainingJob:
    """Everything a worker needs; plain data that travels to it."""

    stage: str
    workspace: str
    encoder: EncoderSection
    start: tuple[str, str] | None  # stage and key of the model to start from; None for the base model
    distill: DistillSection
    align: AlignSection | None  # what stage 2 asks for, when this is stage 2
    seed: int
    examples: TrainingSet
    dev: DevSet | None
    listener: Any  # handle of the actor that hears of finished steps

    @property
    def section(self) -> TrainingSection:
        return self.align or self.distill

    def task(self, row: int) -> Task:
        """Of a batch with this row of the training set: stage 2's own, or stage 1's."""
        replayed_from = self.examples.replayed_from
        if self.align is not None and (replayed_from is None or row < replayed_from):
            visit, loss = objective.align_visit(self.align), objective.align_objective(self.align)
            return Task(visit, self._step(loss, self.align.temperature))
        visit, loss = objective.distill_visit(self.distill), objective.distill_objective(self.distill)
        return Task(visit, self._step(loss, self.distill.temperature, self.distill.synthetic_weight))

    def _step(self, loss: Objective, temperature: float, synthetic_weight: float = 1.0) -> StepRecipe:
        section = self.section
        return StepRecipe(loss, temperature, synthetic_weight, section.matryoshka, section.activation_tokens)


@dataclass
class State:
    """Where training stands. With seeds derived from the step, this and the weights' own state resume it exactly."""

    step: int = 0
    curve: Curve = field(default_factory=list)  # step, mean loss since the last, dev score
    metrics: list[dict[str, float]] = field(default_factory=list)  # one row per step
    best: float = -math.inf
    evaluations_since_best: int = 0
    stopped: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a worker returns: how training went, or why it makes no sense to try again."""

    curve: Curve
    metrics: list[dict[str, float]]
    error: str = ""
