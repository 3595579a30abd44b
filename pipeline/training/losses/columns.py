"""What the losses share: sums over some of a row's columns, and refusals that name the row."""

from __future__ import annotations

from torch import Tensor


def log_sum(scores: Tensor, columns: Tensor) -> Tensor:
    """Log of the sum of the exponentials over each row's `columns`.

    Args:
        scores: `[B, M]`, float32.
        columns: `[B, M]` True where a column counts.
    Returns: `[B]`, -inf for a row without columns.
    """
    return scores.masked_fill(~columns, float("-inf")).logsumexp(dim=1)


def graded(grades: Tensor) -> Tensor:
    """`[B, M]` True where a column has a grade, that is, is a candidate of its row. ValueError for infinite grades."""
    require(~grades.isinf().any(dim=1), "has an infinite grade: fit grades with a prior, or leave the candidate out")
    return ~grades.isnan()


def require(holds: Tensor, complaint: str) -> None:
    """Raise ValueError with the complaint about the first row where `holds`, `[B]` bool, is False."""
    if not bool(holds.all()):
        raise ValueError(f"row {int((~holds).nonzero()[0])} {complaint}")
