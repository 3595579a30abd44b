"""Margin distillation: differences of scores that equal differences of a teacher's grades."""

from __future__ import annotations

from torch import Tensor

from pipeline.training.losses.columns import graded


def margin_mse(scores: Tensor, grades: Tensor) -> Tensor:
    """Mean over pairs of a row's candidates of `((s_i - s_j) - (g_i - g_j))^2` (Hofstaetter et al. 2020).

    Scores and grades must share a unit: a margin of 1 in grades asks for a margin of 1 in scores.

    Args:
        scores: `[B, M]` similarities.
        grades: `[B, M]` higher is better; NaN where the column is no candidate of the row.
    Returns: `[B]` one loss per row, float32; 0 without gradient for a row with fewer than two candidates. Raises
        ValueError for an infinite grade.
    """
    candidates = graded(grades)
    count = candidates.sum(dim=1)
    error = (scores.float() - grades.float()).masked_fill(~candidates, 0)
    mean = error.sum(dim=1) / count.clamp(min=1)
    # The mean squared difference of pairs is twice the unbiased variance: no `[B, M, M]` of pairs is made.
    deviation = (error - mean.unsqueeze(1)).masked_fill(~candidates, 0)
    return 2 * deviation.square().sum(dim=1) / (count - 1).clamp(min=1)
