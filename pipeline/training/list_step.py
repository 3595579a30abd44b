"""One step's gradient of a reranker: score this worker's lists, apply the objective, go back through the pairs.

As for the encoder, the gradient is taken in two halves, which meet at the scores: pairs of a whole batch are sorted by
length and pass the model in micro-batches, whichever lists they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pipeline.encoder.batches import Features, token_batches
from pipeline.scorer.model import PairModel
from pipeline.scorer.score import score_features
from pipeline.training.gradient_cache import Pass, cached_passes
from pipeline.training.group import ALONE, Group, StepResult, sum_gradients
from pipeline.training.lists import ListBatch, ListObjective

FIGURES = ("pairs_in_order",)


@dataclass(frozen=True)
class ListStep:
    """What a step needs of the recipe."""

    objective: ListObjective
    tokens_per_batch: int
    activation_tokens: int | None = None  # kept; beyond them pairs are scored twice; None keeps all
    max_tokens: int | None = None  # of a pair; None for what the model was made for
    autocast: bool = False  # bfloat16 in the transformer


def accumulate_list_gradient(
    model: PairModel, batch: ListBatch, rows: int, recipe: ListStep, group: Group = ALONE
) -> StepResult:
    """Add the gradient of the mean loss over all `rows` of the global batch to every parameter, on all workers.

    Args:
        batch: this worker's share of the rows.
    """
    device = next(model.module.parameters()).device
    features = model.tokenize(batch.pairs, recipe.max_tokens)
    pieces = list(token_batches(features, recipe.tokens_per_batch))
    cached = cached_passes([piece["attention_mask"].numel() for _, piece in pieces], recipe.activation_tokens)
    passes = [
        Pass(partial(_scores, model, piece, recipe.autocast), device, number < cached)
        for number, (_, piece) in enumerate(pieces)
    ]
    order = torch.cat([places for places, _ in pieces]).to(device)
    scores = torch.cat([each.output for each in passes])[torch.argsort(order)].requires_grad_()
    result = _loss_gradient(scores, batch, rows, recipe.objective)
    result.tokens = int(features["attention_mask"].sum())
    assert scores.grad is not None
    gradients = [scores.grad[places.to(device)] for places, _ in pieces]
    for each, gradient in reversed(list(zip(passes, gradients, strict=True))):
        each.backward(gradient)
    sum_gradients(model.module.parameters(), group)
    return result


def _scores(model: PairModel, features: Features, autocast: bool) -> Tensor:
    device = next(model.module.parameters()).device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        return model.logits({name: value.to(device) for name, value in features.items()})


def _loss_gradient(scores: Tensor, batch: ListBatch, rows: int, objective: ListObjective) -> StepResult:
    """Fill `scores.grad`, `[pairs]`."""
    tensors = (value.to(scores.device) for value in (batch.listed, batch.confidence, batch.targets))
    moved = ListBatch(batch.pairs, *tensors)
    grid = torch.zeros(moved.listed.shape, device=scores.device).masked_scatter(moved.listed, scores)
    loss = objective(grid, moved).sum() / rows
    # Where no list of this share has two passages, the loss has no graph of its own.
    (loss + 0 * scores.sum()).backward()  # type: ignore[no-untyped-call]
    result = StepResult(float(loss.detach()))
    decided = moved.confidence > 0
    right = (grid.unsqueeze(2) > grid.unsqueeze(1)) & decided
    result.add("pairs_in_order", float(right.sum()), int(decided.sum()))
    return result


@torch.no_grad()
def scores_of(model: PairModel, pairs: list[tuple[str, str]], recipe: ListStep) -> Tensor:
    """`[n]` on the CPU, without dropout, with the weights as they stand in training."""
    training = model.module.training
    model.module.train(False)
    device = next(model.module.parameters()).device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.autocast):
        scores = score_features(model, model.tokenize(pairs, recipe.max_tokens), recipe.tokens_per_batch)
    model.module.train(training)
    return scores.cpu()
