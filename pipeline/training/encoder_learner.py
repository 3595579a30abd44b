"""An encoder in training: what its batches are made of in both stages, and its dev score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from pipeline.encoder.model import load_model, trained_folder
from pipeline.errors import RayrieverError
from pipeline.recipe import AlignSection, DistillSection, EncoderSection, EncoderTrainingSection
from pipeline.training import objective, weights
from pipeline.training.batch import Visit, assemble
from pipeline.training.dev import DevSet, dev_score
from pipeline.training.example_store import ExampleStore
from pipeline.training.examples import example_rows
from pipeline.training.group import Group, StepResult
from pipeline.training.job import TrainingJob
from pipeline.training.objective import Objective
from pipeline.training.step import FIGURES, StepRecipe, accumulate_gradient
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class Task:
    """How the examples of a batch are visited, and what is minimised over them."""

    visit: Visit
    step: StepRecipe


@dataclass(frozen=True)
class EncoderTrainee:
    """Stage 1, or stage 2 where `align` is given."""

    encoder: EncoderSection
    start: tuple[str, str] | None  # stage and key of the model to start from; None for the base model
    distill: DistillSection
    align: AlignSection | None
    dev: DevSet | None

    @property
    def figures(self) -> tuple[str, ...]:
        return FIGURES

    @property
    def section(self) -> EncoderTrainingSection:
        return self.align or self.distill

    def learner(self, job: TrainingJob, device: torch.device, group: Group) -> EncoderLearner:
        return EncoderLearner(self, job, device, group)

    def task(self, row: int, replayed_from: int | None) -> Task:
        """Of a batch with this row of the training set: stage 2's own, or stage 1's."""
        if self.align is not None and (replayed_from is None or row < replayed_from):
            visit, loss = objective.align_visit(self.align), objective.align_objective(self.align)
            return Task(visit, self._step(loss, self.align.temperature))
        visit, loss = objective.distill_visit(self.distill), objective.distill_objective(self.distill)
        return Task(visit, self._step(loss, self.distill.temperature, self.distill.synthetic_weight))

    def _step(self, loss: Objective, temperature: float, synthetic_weight: float = 1.0) -> StepRecipe:
        section = self.section
        return StepRecipe(loss, temperature, synthetic_weight, section.matryoshka, section.activation_tokens)


class EncoderLearner:
    """A `learner.Learner`."""

    def __init__(self, trainee: EncoderTrainee, job: TrainingJob, device: torch.device, group: Group) -> None:
        self.trainee, self.job, self.group = trainee, job, group
        self.examples = ExampleStore(Workspace(job.workspace), job.examples.parts, example_rows)
        encoder = self.untrained()
        _check_widths(job.stage, trainee.section.matryoshka, encoder.get_embedding_dimension())
        self.model = weights.prepare(encoder, trainee.section, device)
        self.autocast = self.model.autocast
        self.optimizer: torch.optim.Optimizer = weights.optimizer(
            self.model.parameters(), trainee.section, fused=not trainee.section.sharded
        )

    def untrained(self) -> SentenceTransformer:
        return load_model(self.trainee.encoder, trained_folder(self.job.workspace, self.trainee.start))

    def parameters(self) -> list[torch.nn.Parameter]:
        return self.model.parameters()

    def accumulate(self, epoch: int, rows: Sequence[int]) -> StepResult:
        task = self.trainee.task(rows[0], self.job.examples.replayed_from)
        batch = assemble(self.examples, rows, task.visit, self.job.seed, epoch)
        return accumulate_gradient(self.model, batch, task.step, self.group)

    def name(self, row: int) -> str:
        return self.examples[row].query_id

    def dev_score(self) -> float | None:
        """Computed by rank 0, by all where weights are spread."""
        if self.trainee.dev is None or (self.group.rank and not self.model.sharded):
            return None
        return dev_score(self.model, self.trainee.dev)

    def save(self, folder: Path | None) -> None:
        weights.save(self.model, self.optimizer, self.untrained, folder)

    def restore(self, folder: Path) -> None:
        weights.restore(self.model.encoder, self.optimizer, folder)


def _check_widths(stage: str, widths: Sequence[int], dimension: int | None) -> None:
    wrong = [width for width in widths if not 1 <= width <= (dimension or width)]
    if wrong:
        raise RayrieverError(f"{stage}.matryoshka: {wrong[0]} is not from 1 to {dimension}, the encoder's width.")
