"""Losses on preferences: which of a row's columns an LLM ranks above which."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pipeline.training.losses.columns import log_sum, require


def partial_plackett_luce(scores: Tensor, order: Tensor, ignore: Tensor | None = None) -> Tensor:
    """Negative log-likelihood that `order` heads the ranking and everything else follows in any order.

    Kim & Baek 2025, section 2.3, generalised from depth 2 (a preferred passage, the other, the batch): the sum over
    ranks of the cross-entropy of that rank's column among those not ranked above it. Depth 1 is InfoNCE; two candidates
    give Bradley-Terry.

    Args:
        scores: `[B, M]` similarities divided by the temperature.
        order: `[B, D]` long, columns of `scores`, best first; -1 ends a row's ordering.
        ignore: `[B, M]` True where a column is no competitor of the row (a known positive of another sample).
    Returns: `[B]` one loss per row, float32. Raises ValueError when an ordered column is ignored, repeated or not
        there, and when a row orders nothing or has -1 before a column.
    """
    scores = scores.float()
    ordered = _ordered(scores, order)
    competes = ~ordered if ignore is None else ~ordered & ~ignore
    if ignore is not None:
        require(~(ordered & ignore).any(dim=1), "orders a column that is ignored: a column is one or the other")
    ranked, listed = scores.gather(1, order.clamp(min=0)), order >= 0
    # Rank k against ranks k and below, `[B, D, D]`: the batch is summed up once, not once per rank.
    not_above = torch.ones(order.shape[1], order.shape[1], dtype=torch.bool, device=scores.device).triu()
    field = ranked.unsqueeze(1).masked_fill(~(not_above & listed.unsqueeze(1)), float("-inf"))
    rest = log_sum(scores, competes)[:, None, None].expand(-1, order.shape[1], 1)
    per_rank = torch.cat([rest, field], dim=2).logsumexp(dim=2) - ranked
    return per_rank.masked_fill(~listed, 0).sum(dim=1)


def bradley_terry(scores: Tensor, order: Tensor) -> Tensor:
    """Mean over a row's pairs of the negative log-probability that the one ranked higher wins.

    Bradley & Terry 1952, `softplus(s_lower - s_higher)`; the rest of the batch plays no part (the comparison in
    Kim & Baek 2025, where it forgets stage 1).

    Args:
        scores, order: as for `partial_plackett_luce`.
    Returns: `[B]` one loss per row, float32; 0 for a row that orders a single column. Raises ValueError when an ordered
        column is repeated or not there, and when a row orders nothing or has -1 before a column.
    """
    scores = scores.float()
    _ordered(scores, order)
    ranked, listed = scores.gather(1, order.clamp(min=0)), order >= 0
    lead = ranked.unsqueeze(2) - ranked.unsqueeze(1)  # [b, i, j] is s_i - s_j
    # With -1 at the end only, a listed j has every i before it listed, too.
    pairs = torch.ones_like(lead, dtype=torch.bool).triu(diagonal=1) & listed.unsqueeze(1)
    lost = softplus(-lead).masked_fill(~pairs, 0).sum(dim=(1, 2))
    return lost / pairs.sum(dim=(1, 2)).clamp(min=1)


def _ordered(scores: Tensor, order: Tensor) -> Tensor:
    """`[B, M]` True where a column is in its row's order. ValueError for an order that is none."""
    listed = order >= 0
    require(((order >= -1) & (order < scores.shape[1])).all(dim=1), "orders a column that is not there")
    require(listed.any(dim=1), "orders no column: leave such queries out of the batch")
    require(~(listed[:, 1:] & ~listed[:, :-1]).any(dim=1), "has -1 before a column: -1 ends an order")
    times = torch.zeros_like(scores, dtype=torch.long).scatter_add(1, order.clamp(min=0), listed.long())
    require((times <= 1).all(dim=1), "orders a column twice: name each once")
    return times > 0
