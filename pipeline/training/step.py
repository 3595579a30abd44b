"""One step's gradient: embed this worker's share, see every worker's documents, apply the objective.

The gradient is taken in two halves that meet at the vectors: from the loss to the vectors of the whole batch, and from
each vector to the weights. With a gradient cache (Gao, Zhang, Han & Callan 2021, "Scaling Deep Contrastive Learning
Batch Size under Memory Limited Setup") the second half embeds again, micro-batch by micro-batch, so that no activations
have to be kept between the halves; those that fit a budget are, and save the second pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.training.batch import Batch, Masks, Row
from pipeline.training.bi_encoder import BiEncoder, MicroBatch
from pipeline.training.losses import matryoshka_views
from pipeline.training.objective import Objective
from pipeline.training.sampler import worker_slice

# Scores computed at once: B x M of a batch of thousands does not fit.
_SCORES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Group:
    """This worker's place among the workers."""

    rank: int = 0
    workers: int = 1


_ALONE = Group()


@dataclass(frozen=True)
class StepRecipe:
    """What a step needs of the recipe."""

    objective: Objective
    temperature: float
    synthetic_weight: float = 1.0
    matryoshka: tuple[int, ...] = ()
    activation_tokens: int | None = None  # kept; beyond them the step embeds twice; None keeps all


@dataclass
class StepResult:
    """What a step says of itself; sums over this worker's rows, so that workers' results add up."""

    loss: float = 0.0  # this worker's part of the mean loss of the global batch
    tokens: int = 0
    similarity: dict[str, float] = field(default_factory=dict)  # labelled, synthetic, repelled: sum of cosines
    columns: dict[str, int] = field(default_factory=dict)  # how many of each


def accumulate_gradient(model: BiEncoder, batch: Batch, recipe: StepRecipe, group: Group = _ALONE) -> StepResult:
    """Add the gradient of the global batch's weighted mean loss to every parameter, the same on all workers."""
    own = worker_slice(len(batch.queries), group.rank, group.workers)
    documents = [
        text for text, owner in zip(batch.documents, batch.owner, strict=True) if own.start <= owner < own.stop
    ]
    pieces = model.micro_batches(batch.queries[own], documents)
    cached = _cached(pieces, recipe.activation_tokens)
    if group.workers > 1 and model.sharded:
        pieces, cached = _like_others(model, pieces, cached)
    passes = [_Pass(model, piece, number < cached) for number, piece in enumerate(pieces)]
    vectors = model.in_order(pieces, [each.vectors for each in passes]).requires_grad_()
    result = _loss_gradient(vectors, len(documents), batch, own, recipe, group)
    result.tokens = sum(piece.tokens for piece in pieces)
    assert vectors.grad is not None
    halves = zip(passes, model.as_pieces(pieces, vectors.grad), strict=True)
    for each, gradient in reversed(list(halves)):
        each.backward(gradient)
    if group.workers > 1 and not model.sharded:
        _sum_gradients(model, group)
    return result


def _cached(pieces: Sequence[MicroBatch], activation_tokens: int | None) -> int:
    """How many of the first passes keep no activations. The last ones do, for they go back first."""
    if activation_tokens is None:
        return 0
    kept, number = pieces[-1].size, len(pieces) - 1
    while number and kept + pieces[number - 1].size <= activation_tokens:
        number -= 1
        kept += pieces[number].size
    return number


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


class _Pass:
    """One micro-batch on its way forward, and later back."""

    def __init__(self, model: BiEncoder, piece: MicroBatch, cached: bool) -> None:
        self._model, self._piece = model, piece
        self._chance = _chance_state(model.device) if cached else None
        with torch.set_grad_enabled(not cached):
            self._graph = model.embed(piece)
        self.vectors = self._graph.detach()

    def backward(self, gradient: Tensor) -> None:
        graph = self._graph
        if self._chance is not None:
            # The same dropout as on the way forward, or the gradient would be that of another function.
            with torch.random.fork_rng(devices=_devices(self._model.device)):
                _restore_chance(self._model.device, self._chance)
                graph = self._model.embed(self._piece)
        graph.backward(gradient)  # type: ignore[no-untyped-call]


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


def _sum_gradients(model: BiEncoder, group: Group) -> None:
    """Each worker holds its own rows' part of the global mean: the whole is the sum."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


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
    for kind in ("labelled", "synthetic", "repelled"):
        places = [(place, column) for place, row in enumerate(rows) for column in getattr(row, kind)]
        if places:
            at = torch.tensor(places, device=queries.device)
            cosines = (queries[at[:, 0]] * documents[at[:, 1]]).sum()
            result.similarity[kind] = result.similarity.get(kind, 0.0) + float(cosines)
            result.columns[kind] = result.columns.get(kind, 0) + len(places)


def _devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _chance_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore_chance(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
