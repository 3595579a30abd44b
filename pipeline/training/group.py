"""The workers of a training: each one's place, and what is summed over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Group:
    """This worker's place among the workers."""

    rank: int = 0
    workers: int = 1


ALONE = Group()


@dataclass
class StepResult:
    """What a step says of itself; sums over this worker's rows, so that workers' results add up."""

    loss: float = 0.0  # this worker's part of the mean loss of the global batch
    tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # of each figure, such as cosine_labelled
    counts: dict[str, int] = field(default_factory=dict)  # of the values in each sum

    def add(self, figure: str, total: float, count: int) -> None:
        self.sums[figure] = self.sums.get(figure, 0.0) + total
        self.counts[figure] = self.counts.get(figure, 0) + count

    @property
    def means(self) -> dict[str, float]:
        """Of the figures that have a value."""
        return {figure: self.sums[figure] / count for figure, count in self.counts.items() if count}

    def summed(self, group: Group, figures: Sequence[str], device: torch.device) -> StepResult:
        """Of all workers, so that every one of them sees the same and none goes on alone."""
        if group.workers == 1:
            return self
        parts = [value for name in figures for value in (self.sums.get(name, 0.0), self.counts.get(name, 0))]
        values = torch.tensor([self.loss, self.tokens, *parts], dtype=torch.float64, device=device)
        dist.all_reduce(values)
        loss, tokens, *parts = values.tolist()
        sums, counts = dict(zip(figures, parts[::2], strict=True)), dict(zip(figures, parts[1::2], strict=True))
        return StepResult(loss, int(tokens), sums, {name: int(count) for name, count in counts.items()})


def sum_gradients(parameters: Iterable[torch.nn.Parameter], group: Group) -> None:
    """Each worker holds its own rows' part of the global mean: the whole is the sum."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if group.workers == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
