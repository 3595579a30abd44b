"""Contrastive losses: known positives against everything else in the batch."""

from __future__ import annotations

from torch import Tensor

from pipeline.training.losses.columns import log_sum, require


def soft_nn(scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
    """Soft nearest neighbour with several positives: minus log of the positives' joint share of the softmax.

    Kim & Baek 2025, section 2.2: `LSE(all columns) - LSE(positive columns)`. A relabelled passage stays a column and
    leaves the positive mask.

    Args:
        scores: `[B, M]` similarities divided by the temperature.
        positive: `[B, M]` True where the column answers the row's query; at least one per row.
        ignore: `[B, M]` True where the column is neither: it enters no sum.
    Returns: `[B]` one loss per row, float32. Raises ValueError when a row has no positive or a positive is ignored.
    """
    _check(positive, ignore)
    scores = scores.float()
    return log_sum(scores, ~ignore) - log_sum(scores, positive)


def infonce(scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
    """Cross-entropy of the labelled passage (van den Oord et al. 2018); arguments, result and errors of `soft_nn`.

    It is `soft_nn` with one positive per row: what differs is the batch, which holds no synthetic positives.
    """
    return soft_nn(scores, positive, ignore)


def supcon(scores: Tensor, positive: Tensor, ignore: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean over the positives of each one's own cross-entropy (Khosla et al. 2020, L_out, with weights).

    Every positive is attracted on its own, where `soft_nn` is content with the nearest. One whose share of the softmax
    exceeds its share of the weights is pushed away, so weight 0 makes it a negative.

    Args:
        scores, positive, ignore: as for `soft_nn`.
        weights: `[B, M]` of the positives, read nowhere else; None weighs all alike.
    Returns: `[B]` one loss per row, float32. Raises ValueError as `soft_nn` does, and when the weights of a row's
        positives do not add up to more than 0.
    """
    _check(positive, ignore)
    scores = scores.float()
    weights = positive.float() if weights is None else weights.float().masked_fill(~positive, 0)
    total = weights.sum(dim=1)
    require(total > 0, "has positives without weight: weigh at least one of them above 0")
    per_column = log_sum(scores, ~ignore).unsqueeze(1) - scores
    return (per_column * weights).sum(dim=1) / total


def _check(positive: Tensor, ignore: Tensor) -> None:
    require(positive.any(dim=1), "has no positive column: leave such queries out of the batch")
    require(~(positive & ignore).any(dim=1), "has a positive column that is ignored: a column is one or the other")
