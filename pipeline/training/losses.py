"""Contrastive losses over a score matrix with a positive and an ignore mask. Plain tensors in and out."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

RowLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def soft_nn(scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
    """Soft nearest neighbour with several positives: minus log of the positives' joint share of the softmax.

    Kim & Baek 2025, section 2.2: `LSE(all columns) - LSE(positive columns)`. With one positive per row it is
    cross-entropy. A relabelled passage stays a column and leaves the positive mask.

    Args:
        scores: `[B, M]` similarities divided by the temperature, float32.
        positive: `[B, M]` True where the column answers the row's query; at least one per row.
        ignore: `[B, M]` True where the column is neither: it enters no sum.
    Returns: `[B]` one loss per row. Raises ValueError when a row has no positive or a positive is ignored.
    """
    _check(positive, ignore)
    return _log_sum(scores, ~ignore) - _log_sum(scores, positive)


def supcon(scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
    """Mean over the positives of each one's own cross-entropy (Khosla et al. 2020, L_out); arguments of `soft_nn`.

    Every positive is attracted on its own, where `soft_nn` is content with the nearest.
    """
    _check(positive, ignore)
    per_column = _log_sum(scores, ~ignore).unsqueeze(1) - scores
    return (per_column * positive).sum(dim=1) / positive.sum(dim=1)


# InfoNCE differs in its columns, not in its formula: its batches hold labelled passages only.
LOSSES: dict[str, RowLoss] = {"soft_nn": soft_nn, "supcon": supcon, "infonce": soft_nn}


def _log_sum(scores: Tensor, columns: Tensor) -> Tensor:
    return scores.masked_fill(~columns, float("-inf")).logsumexp(dim=1)


def _check(positive: Tensor, ignore: Tensor) -> None:
    if not bool(positive.any(dim=1).all()):
        raise ValueError("a row has no positive column: leave such queries out of the batch")
    if bool((positive & ignore).any()):
        raise ValueError("a positive column is ignored")
