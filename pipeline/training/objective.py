"""What a training minimises: the losses of a recipe section over the masks of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.recipe import AlignSection, DistillSection
from pipeline.training.batch import Masks, Visit
from pipeline.training.losses import (
    bradley_terry,
    infonce,
    listwise_cross_entropy,
    margin_mse,
    partial_plackett_luce,
    soft_nn,
    supcon,
)

# Scores `[b, M]` divided by the temperature, and their masks, to one loss per row `[b]`.
Objective = Callable[[Tensor, Masks], Tensor]


# How far below a list's last score the rest of the batch is put: less than a ten-thousandth of the teacher's mass.
_BELOW = 10.0


def distill_visit(section: DistillSection) -> Visit:
    return Visit(
        contrast=True,
        hard_negatives=section.hard_negatives,
        candidates="list" if section.teacher_weight else "none",
        list_size=section.teacher_candidates,
    )


def align_visit(section: AlignSection) -> Visit:
    return Visit(
        contrast=False,
        candidates="order" if section.loss in ("partial_pl", "bradley_terry") else "list",
        depth=section.depth if section.loss == "partial_pl" else None,
    )


def distill_objective(section: DistillSection) -> Objective:
    """Stage 1: the contrastive loss of rows with a positive, and the teacher's lists of rows that have one."""

    def losses(scores: Tensor, masks: Masks) -> Tensor:
        contrast = _of_rows(masks.positive.any(dim=1), _CONTRASTIVE[section.loss], scores, masks)
        if not section.teacher_weight or bool(masks.grades.isnan().all()):
            return contrast
        grades = _over_the_batch(masks, section.teacher_temperature)
        return contrast + section.teacher_weight * listwise_cross_entropy(scores, grades, section.teacher_temperature)

    return losses


_CONTRASTIVE: dict[str, Objective] = {
    "soft_nn": lambda scores, masks: soft_nn(scores, masks.positive, masks.ignore),
    "supcon": lambda scores, masks: supcon(scores, masks.positive, masks.ignore, masks.weights),
    "infonce": lambda scores, masks: infonce(scores, masks.positive, masks.ignore),
}


def _of_rows(rows: Tensor, objective: Objective, scores: Tensor, masks: Masks) -> Tensor:
    """The objective where `rows` `[b]` is True, 0 elsewhere."""
    if bool(rows.all()):
        return objective(scores, masks)
    chosen = rows.nonzero().squeeze(1)
    found = torch.zeros(len(scores), device=scores.device)
    if not len(chosen):
        return found
    return found.index_add(0, chosen, objective(scores[chosen], masks.of(chosen)))


def _over_the_batch(masks: Masks, temperature: float) -> Tensor:
    """Teacher's scores `[b, M]`: the rest of the batch, far below, competes with a row's list; NaN enters nothing."""
    grades = masks.grades
    last = grades.nan_to_num(nan=float("inf")).amin(dim=1, keepdim=True)
    competes = grades.isnan() & ~masks.preference_ignore & last.isfinite()
    return torch.where(competes, last - _BELOW * temperature, grades)


def align_objective(section: AlignSection) -> Objective:
    """Stage 2: what the recipe's loss makes of orders or grades."""
    temperature = section.grade_temperature
    losses: dict[str, Objective] = {
        "partial_pl": lambda scores, masks: partial_plackett_luce(scores, masks.order, masks.preference_ignore),
        "bradley_terry": lambda scores, masks: bradley_terry(scores, masks.order),
        "listwise": lambda scores, masks: listwise_cross_entropy(scores, masks.grades, temperature),
        "margin_mse": lambda scores, masks: margin_mse(scores, masks.grades / temperature),
    }
    return losses[section.loss]
