"""Listwise distillation: the distribution of a teacher's grades over a row's candidates."""

from __future__ import annotations

from torch import Tensor

from pipeline.training.losses.columns import graded, log_sum


def listwise_cross_entropy(scores: Tensor, grades: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the softmax of the scores with that of the grades, both over the row's candidates.

    ListNet, Cao et al. 2007 (top-one probabilities). It is the KL divergence from the teacher plus the teacher's
    entropy, a constant: the gradient is that of KL, but a perfect student's loss is the entropy, not 0.

    Args:
        scores: `[B, M]` similarities divided by their own temperature.
        grades: `[B, M]` higher is better; NaN where the column is no candidate of the row.
        temperature: the grades are divided by it; below 1 sharpens the teacher.
    Returns: `[B]` one loss per row, float32; 0 without gradient for a row with fewer than two candidates. Raises
        ValueError for an infinite grade.
    """
    scores, candidates = scores.float(), graded(grades)
    too_few = candidates.sum(dim=1, keepdim=True) < 2
    # A softmax over no column is NaN, and so is its gradient even where it is masked: such rows get all columns.
    columns = candidates | too_few
    teacher = (grades.float().nan_to_num() / temperature).masked_fill(~columns, float("-inf")).softmax(dim=1)
    loss = log_sum(scores, columns) - (teacher * scores).sum(dim=1)
    return loss.masked_fill(too_few.squeeze(1), 0)
