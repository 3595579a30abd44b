"""Losses of a reranker on lists that a teacher put in order, best first: on pairs, on places, on scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pipeline.training.losses.columns import graded
from pipeline.training.losses.preference import partial_plackett_luce


def ranknet(scores: Tensor, confidence: Tensor) -> Tensor:
    """Mean over the pairs that the teacher ordered of `softplus(s_lower - s_higher)`, weighted by its confidence.

    Burges et al. 2005. TWOLAR, section 3.3, prints the opposite sign, which would teach the reversed order.

    Args:
        scores: `[B, N]` differences of logits; whatever stands at padding.
        confidence: `[B, N, N]` antisymmetric, from -1 to 1: how surely column i is above column j; 0 where unknown and
            at padding.
    Returns: `[B]` one loss per row, float32; 0 without gradient for a row without an ordered pair. Being a mean, it
        tells apart the confidences of a row's pairs, not a sure row from an unsure one.
    """
    weights = confidence.float().clamp(min=0)
    total = weights.sum(dim=(1, 2))
    return (weights * _lost(scores, weights > 0)).sum(dim=(1, 2)) / total.masked_fill(total == 0, 1)


def lambda_loss(scores: Tensor, confidence: Tensor, listed: Tensor) -> Tensor:
    """Sum over the ordered pairs of `|delta nDCG| * confidence * softplus(s_lower - s_higher)`.

    LambdaRank (Burges 2010), written as the loss that it minimises (Wang et al. 2018). A pair weighs what nDCG would
    change by if its two passages swapped their current places: `|G_i - G_j| * |1/D_i - 1/D_j| / ideal DCG`, where
    `D = log2(1 + place)`. The gain of a passage is chosen: `1 / teacher's place`, because an order has no grades and
    `2^grade - 1` with places as grades would leave nothing but the first to learn.

    Args:
        scores: `[B, N]` differences of logits; the current places are theirs, ties in the teacher's order.
        confidence: as for `ranknet`.
        listed: `[B, N]` True where there is a passage; the teacher's order is that of the columns, the best first.
    Returns: `[B]` one loss per row, float32; 0 without gradient for a row without an ordered pair. No gradient flows
        through the weights.
    """
    places = listed.cumsum(dim=1).clamp(min=1)
    gains = (1 / places).masked_fill(~listed, 0)
    ideal = (gains / (places + 1).log2()).sum(dim=1)
    discounts = 1 / (_places_by_score(scores, listed) + 1).log2()
    change = (gains.unsqueeze(2) - gains.unsqueeze(1)).abs() * (discounts.unsqueeze(2) - discounts.unsqueeze(1)).abs()
    pairs = confidence > 0
    weights = (confidence.float() * change).masked_fill(~pairs, 0)
    return (weights * _lost(scores, pairs)).sum(dim=(1, 2)) / ideal.masked_fill(ideal == 0, 1)


def list_mle(scores: Tensor, listed: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's whole order (ListMLE, Xia et al. 2008; Plackett-Luce).

    Args:
        scores: `[B, N]` differences of logits.
        listed: `[B, N]` True where there is a passage; the best first, padding after the last.
    Returns: `[B]` one loss per row, float32, a sum over the places as in the paper. Raises ValueError for a row without
        passages or with padding before one.
    """
    columns = torch.arange(scores.shape[1], device=scores.device).expand_as(listed)
    return partial_plackett_luce(scores, columns.masked_fill(~listed, -1), ignore=~listed)


def adr_mse(scores: Tensor, listed: Tensor, alpha: float = 1.0) -> Tensor:
    """Mean over a list of `(place - soft place)^2 / log2(place + 1)`, the place being the teacher's (ADR-MSE).

    Schlatt et al. 2025 (Rank-DistiLLM), with the soft place of Qin et al. 2010: 1 plus the sum over the other passages
    of `sigmoid((s_other - s_own) / alpha)`. The formula is the paper's; that alpha is 1 is chosen here.

    Args:
        scores: `[B, N]` differences of logits.
        listed: `[B, N]` True where there is a passage; the teacher's order is that of the columns, the best first.
        alpha: the smaller, the nearer the soft places are to whole ones, and the rarer a gradient.
    Returns: `[B]` one loss per row, float32; 0 without gradient for a row with fewer than two passages. Raises
        ValueError unless alpha is above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha {alpha}: must be above 0")
    scores, places = scores.float().masked_fill(~listed, 0), listed.cumsum(dim=1)
    others = listed.unsqueeze(1) & ~torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    above = ((scores.unsqueeze(1) - scores.unsqueeze(2)) / alpha).sigmoid().masked_fill(~others, 0)
    error = (places - 1 - above.sum(dim=2)).square() / (places.clamp(min=1) + 1).log2()
    return error.masked_fill(~listed, 0).sum(dim=1) / places[:, -1].clamp(min=1)


def mse(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference from the teacher's scores, which must share the unit of `scores`.

    Args:
        scores: `[B, N]` differences of logits.
        targets: `[B, N]` scores of the teacher; NaN where it gave none and at padding.
    Returns: `[B]` one loss per row, float32; 0 without gradient for a row without targets. Raises ValueError for an
        infinite target.
    """
    given = graded(targets)
    error = (scores.float() - targets.float()).masked_fill(~given, 0)
    return error.square().sum(dim=1) / given.sum(dim=1).clamp(min=1)


def _lost(scores: Tensor, pairs: Tensor) -> Tensor:
    """`[B, N, N]` softplus(s_j - s_i) where `pairs`; elsewhere a constant, whatever the scores are."""
    scores = scores.float()
    return softplus((scores.unsqueeze(1) - scores.unsqueeze(2)).masked_fill(~pairs, 0))


def _places_by_score(scores: Tensor, listed: Tensor) -> Tensor:
    """`[B, N]` places from 1, by descending score, ties by column; what is not listed comes last."""
    order = scores.detach().float().masked_fill(~listed, float("-inf")).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1) + 1
