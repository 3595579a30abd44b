"""A reranker in training: lists of its batches, its dev score, its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.recipe import RerankSection, ScorerSection
from pipeline.scorer.load import load_scorer_model
from pipeline.training import weights
from pipeline.training.dev_lists import DevLists, dev_list_score
from pipeline.training.example_store import ExampleStore
from pipeline.training.group import Group, StepResult
from pipeline.training.job import TrainingJob
from pipeline.training.list_step import FIGURES, ListStep, accumulate_list_gradient, scores_of
from pipeline.training.lists import collate, list_objective, list_rows
from pipeline.training.sampler import worker_slice
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class RerankerTrainee:
    """A `learner.Trainee`."""

    scorer: ScorerSection  # whose model it starts from
    section: RerankSection
    dev: DevLists | None

    @property
    def figures(self) -> tuple[str, ...]:
        return FIGURES

    def learner(self, job: TrainingJob, device: torch.device, group: Group) -> RerankerLearner:
        return RerankerLearner(self, job, device, group)


class RerankerLearner:
    """A `learner.Learner`."""

    def __init__(self, trainee: RerankerTrainee, job: TrainingJob, device: torch.device, group: Group) -> None:
        section = trainee.section
        self.trainee, self.job, self.group = trainee, job, group
        self.examples = ExampleStore(Workspace(job.workspace), job.examples.parts, list_rows)
        self.model = load_scorer_model(trainee.scorer, seed=job.seed)
        module: torch.nn.Module = self.model.module
        if section.gradient_checkpointing:
            self.model.module.gradient_checkpointing_enable({"use_reentrant": False})
        module.to(device)
        module.train()
        self.autocast = section.dtype == "bfloat16"
        self.optimizer: torch.optim.Optimizer = weights.optimizer(self.parameters(), section)
        self.step = ListStep(
            list_objective(section.loss, section.score_scale),
            section.tokens_per_batch,
            section.activation_tokens,
            section.max_tokens,
            self.autocast,
        )

    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.module.parameters() if parameter.requires_grad]

    def accumulate(self, epoch: int, rows: Sequence[int]) -> StepResult:
        own = rows[worker_slice(len(rows), self.group.rank, self.group.workers)]
        size, seed = self.trainee.section.list_size, f"{self.job.seed}-{epoch}"
        batch = collate([self.examples[row].drawn(size, f"{seed}-{row}") for row in own])
        return accumulate_list_gradient(self.model, batch, len(rows), self.step, self.group)

    def name(self, row: int) -> str:
        return self.examples[row].query_id

    def dev_score(self) -> float | None:
        """Computed by rank 0."""
        if self.trainee.dev is None or self.group.rank:
            return None
        return dev_list_score(lambda pairs: scores_of(self.model, pairs, self.step).tolist(), self.trainee.dev)

    def save(self, folder: Path | None) -> None:
        weights.save_state(self.model.module, self.optimizer, folder)
        if folder is not None:
            self.model.save(folder / weights.MODEL)

    def restore(self, folder: Path) -> None:
        weights.restore(self.model.module, self.optimizer, folder)
