"""One step's gradient: embed this worker's share, see every worker's documents, apply the objective.

The gradient is taken in two halves that meet at the vectors: from the loss to the vectors of the whole batch, and from
each vector to the weights. With a gradient cache (Gao, Zhang, Han & Callan 2021, "Scaling Deep Contrastive Learning
Batch Size under Memory Limited Setup") the second half embeds again, micro-batch by micro-batch, so that no activations
have to be kept between the halves; those that fit a budget are, and save the second pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.training.batch import Batch, Masks, Row
from pipeline.training.bi_encoder import BiEncoder, MicroBatch
from pipeline.training.gradient_cache import Pass, cached_passes
from pipeline.training.group import ALONE, Group, StepResult, sum_gradients
from pipeline.training.losses import matryoshka_views
from pipeline.training.objective import Objective
from pipeline.training.sampler import worker_slice

# Scores computed at once: B x M of a batch of thousands does not fit.
_SCORES_AT_ONCE = 4_000_000
_KINDS = ("labelled", "synthetic", "repelled")
FIGURES = tuple(f"cosine_{kind}" for kind in _KINDS)


@dataclass(frozen=True)
class StepRecipe:
    """What a step needs of the recipe."""

    objective: Objective
    temperature: float
    synthetic_weight: float = 1.0
    matryoshka: tuple[int, ...] = ()
    activation_tokens: int | None = None  # kept; beyond them the step embeds twice; None keeps all


def accumulate_gradient(model: BiEncoder, batch: Batch, recipe: StepRecipe, group: Group = ALONE) -> StepResult:
    """Add the gradient of the global batch's weighted mean loss to every parameter, the same on all workers."""
    own = worker_slice(len(batch.queries), group.rank, group.workers)
    documents = [
        text for text, owner in zip(batch.documents, batch.owner, strict=True) if own.start <= owner < own.stop
    ]
    pieces = model.micro_batches(batch.queries[own], documents)
    cached = cached_passes([piece.size for piece in pieces], recipe.activation_tokens)
    if group.workers > 1 and model.sharded:
        pieces, cached = _like_others(model, pieces, cached)
    passes = [Pass(partial(model.embed, piece), model.device, number < cached) for number, piece in enumerate(pieces)]
    vectors = model.in_order(pieces, [each.output for each in passes]).requires_grad_()
    result = _loss_gradient(vectors, len(documents), batch, own, recipe, group)
    result.tokens = sum(piece.tokens for piece in pieces)
    assert vectors.grad is not None
    halves = zip(passes, model.as_pieces(pieces, vectors.grad), strict=True)
    for each, gradient in reversed(list(halves)):
        each.backward(gradient)
    if not model.sharded:
        sum_gradients(model.parameters(), group)
    return result


def _loss_gradient(
    vectors: Tensor, own_documents: int, batch: Batch, own: slice, recipe: StepRecipe, group: Group
) -> StepResult:
    """Fill `vectors.grad`: queries first, then documents, of this worker `[b + m, d]`."""
    rows = own.stop - own.start
    documents = _gathered(vectors.detach()[rows:], batch, group).requires_grad_()
    result = StepResult()
    for piece in _row_pieces(rows, len(batch.documents)):
        masks = batch.masks(slice(own.start + piece.start, own.start + piece.stop), recipe.synthetic_weight)
        masks = _moved(masks, vectors.device)
        queries = vectors[:rows][piece]
        weights = torch.tensor(batch.weights[own][piece], device=vectors.device)
        loss = (_objective(queries, documents, masks, recipe) * weights).sum() / sum(batch.weights)
        loss.backward()  # type: ignore[no-untyped-call]
        result.loss += float(loss.detach())
        _observe(result, queries.detach(), documents.detach(), batch.rows[own][piece])
    gradient = documents.grad if documents.grad is not None else torch.zeros_like(documents)
    if group.workers > 1:
        dist.all_reduce(gradient)
    place = sum(owner < own.start for owner in batch.owner)
    assert vectors.grad is not None
    vectors.grad[rows:] += gradient[place : place + own_documents]
    return result


def _objective(queries: Tensor, documents: Tensor, masks: Masks, recipe: StepRecipe) -> Tensor:
    """`[b]` losses, averaged over the widths of a Matryoshka training."""
    views = zip(
        matryoshka_views(queries, recipe.matryoshka), matryoshka_views(documents, recipe.matryoshka), strict=True
    )
    losses = [recipe.objective(q @ d.T / recipe.temperature, masks) for q, d in views]
    return torch.stack(losses).mean(dim=0)


def _gathered(documents: Tensor, batch: Batch, group: Group) -> Tensor:
    """All workers' documents `[M, d]` in order of rank."""
    if group.workers == 1:
        return documents.clone()
    slices = [worker_slice(len(batch.queries), rank, group.workers) for rank in range(group.workers)]
    counts = [sum(s.start <= owner < s.stop for owner in batch.owner) for s in slices]
    padded = torch.nn.functional.pad(documents, (0, 0, 0, max(counts) - len(documents)))
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _like_others(model: BiEncoder, pieces: list[MicroBatch], cached: int) -> tuple[list[MicroBatch], int]:
    """Sharded weights are gathered in every pass: all workers must do as many, and go back through them alike.

    A cached pass is embedded again on the way back, another is not: with unequal numbers, one worker would gather
    while the other sums, and both would wait for ever.
    """
    most = torch.tensor([len(pieces), cached], device=model.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    passes, cached = most.tolist()
    return pieces + [model.empty_micro_batch() for _ in range(passes - len(pieces))], cached


def _row_pieces(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, _SCORES_AT_ONCE // max(1, columns))
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))


def _moved(masks: Masks, device: torch.device) -> Masks:
    return Masks(**{name: value.to(device) for name, value in vars(masks).items()})


def _observe(result: StepResult, queries: Tensor, documents: Tensor, rows: list[Row]) -> None:
    for kind in _KINDS:
        places = [(place, column) for place, row in enumerate(rows) for column in getattr(row, kind)]
        if places:
            at = torch.tensor(places, device=queries.device)
            cosines = (queries[at[:, 0]] * documents[at[:, 1]]).sum()
            result.add(f"cosine_{kind}", float(cosines), len(places))
