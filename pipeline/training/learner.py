"""What the training loop knows of that which learns: an encoder or a reranker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from pipeline.training.group import Group, StepResult

if TYPE_CHECKING:
    from pipeline.training.job import TrainingJob


class Trainee(Protocol):
    """What is to learn, and how its steps are judged; plain data that travels to workers."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that its steps report beside the loss."""

    def learner(self, job: TrainingJob, device: torch.device, group: Group) -> Learner:
        """Its model on this worker, untrained. Raises RayrieverError for what the model cannot do."""


class Learner(Protocol):
    """A model in training on one worker."""

    autocast: bool  # whether its forward pass is in bfloat16
    optimizer: torch.optim.Optimizer

    def parameters(self) -> list[torch.nn.Parameter]:
        """Those that learn."""

    def accumulate(self, epoch: int, rows: Sequence[int]) -> StepResult:
        """Add the gradient of these rows of the training set, the global batch's, the same on all workers.

        Draws depend on (seed, epoch, row) alone; dropout on torch's generator, which the loop has seeded.
        """

    def name(self, row: int) -> str:
        """Of the query of a row, for messages."""

    def dev_score(self) -> float | None:
        """Mean nDCG@10 on dev; None on workers that do not compute it, and without dev queries. All workers call it."""

    def save(self, folder: Path | None) -> None:
        """Write weights, moments, and the model as it would be released under `weights.MODEL`.

        All workers call it; those without a folder write nothing.
        """

    def restore(self, folder: Path) -> None:
        """Continue from what `save` wrote: weights and moments as they were, to the bit."""
