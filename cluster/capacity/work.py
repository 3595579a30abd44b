"""How much work each stage of a recipe has, what its time grows with, and what it demands of nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.index.build import CPUS_PER_BUILDER
from pipeline.index.kinds import ROWS_PER_CENTROID, Spec, choose
from pipeline.placement import Demand
from pipeline.recipe import ActorsSection, PlacementSection, Recipe, TrainingSection
from pipeline.runner import plan
from pipeline.stage import Estimate
from pipeline.workspace import Workspace

_USUAL_DIMENSION = 384
_ROUNDS = 10  # of k-means, as Faiss has it for lists
_PROBED = 32  # lists, about, for a recall of 0.95; each shard has its part of each
_ROUND = re.compile(r"_round_\d+$")


@dataclass(frozen=True)
class Work:
    """Of one stage.

    Args:
        unit: what its time grows with. A pace holds for the same unit alone, which so also names the kind of index.
        slices: pieces that it comes in; more workers than pieces are of no use. None: as small as one likes.
        workers: that share it. They are gone when one of them is where `together` (training).
        demand: of each worker.
        products: multiplications of vectors' components that come on top and are shared: in a sample there are too few
            vectors, and lists, to tell. Those of `first_products` are done before, on one node.
        least_s: that it takes however many share it.
    """

    stage: str
    unit: str
    amount: float
    workers: int
    demand: Demand
    slices: int | None = None
    together: bool = False
    products: float = 0.0
    first_products: float = 0.0
    least_s: float = 0.0


def foreseen(recipe: Recipe, passages: int | None = None) -> dict[str, Estimate]:
    """Of every stage by name, as if nothing but the corpus were there.

    Args:
        passages: as if the corpus had so many.
    """
    found: dict[str, Estimate] = {}
    for step in plan(recipe, Workspace(recipe.workspace)):
        name = step.stage.name
        if name == "corpus":
            found[name] = step.estimate if passages is None else _of_size(step.estimate, passages)
        else:
            found[name] = step.stage.estimate(recipe, {each: found[each] for each in step.stage.inputs})
    return found


def seen(recipe: Recipe) -> dict[str, Estimate]:
    """Of every stage by name: what it has been, where it is finished."""
    return {step.stage.name: step.estimate for step in plan(recipe, Workspace(recipe.workspace))}


def _of_size(corpus: Estimate, passages: int) -> Estimate:
    return replace(corpus, rows=passages, disk_bytes=round(corpus.disk_bytes * passages / max(corpus.rows, 1)))


def work_of(recipe: Recipe, estimates: Mapping[str, Estimate]) -> list[Work]:
    """The stages in order."""
    return [_work(name, recipe, estimates) for name in estimates]


def _work(stage: str, recipe: Recipe, estimates: Mapping[str, Estimate]) -> Work:
    passages, rows, kind = estimates["corpus"].rows, estimates[stage].rows, kind_of(stage)
    if kind in ("queries", "synthesis", "preferences", "permutations"):
        return _by_llm(stage, recipe, estimates[stage])
    if kind in ("distill", "align", "rerank"):
        return _training(stage, kind, recipe, estimates)
    if kind.startswith("encode_"):
        return _by_actors(stage, "passages", passages, recipe, recipe.encoder)
    if kind == "sparse":
        assert recipe.sparse is not None, "there is no such stage without the section"
        return _by_actors(stage, "passages", passages, recipe, recipe.sparse)
    if kind == "evaluate_reranker" or _scores(kind, recipe):
        return _by_actors(stage, "pairs", rows, recipe, recipe.scorer)
    dimension = _dimension(estimates, passages)
    spec = choose(recipe.index, max(passages, 1), dimension).spec
    index = _demand(recipe, recipe.index.placement, CPUS_PER_BUILDER, recipe.index.gpus)
    if kind.startswith("index_"):
        first, then = _products(spec, passages)
        unit = f"{spec.kind}: passages"
        return Work(stage, unit, passages, spec.shards, index, spec.shards, products=then, first_products=first)
    on_any = _demand(recipe, PlacementSection(), 1)
    if kind == "words":
        shards = max(1, -(-passages // recipe.lexical.shard_passages))
        return Work(stage, "passages", passages, shards, on_any, shards)
    if kind == "corpus":
        return Work(stage, "passages", passages, 1, on_any)
    searched = _searched(kind, recipe, estimates)
    products = searched * _compared(spec, passages) * dimension
    return Work(stage, f"{spec.kind}: queries", searched, spec.shards, index, products=products)


def _products(spec: Spec, passages: int) -> tuple[float, float]:
    """Of k-means, in whose rounds a sample is compared with all centroids, and of each passage with them."""
    sample = min(spec.lists * ROWS_PER_CENTROID, passages)
    return _ROUNDS * sample * spec.lists * spec.dimension, passages * spec.lists * spec.dimension


def _compared(spec: Spec, passages: int) -> float:
    """Vectors with one query: every passage, or the centroids and what is in the lists that are probed.

    None of a graph: what its search takes hardly grows, and is in its pace.
    """
    if not spec.lists:
        return passages if spec.is_exact else 0
    return spec.shards * spec.lists + passages * min(_PROBED / spec.lists, 1)


def _searched(kind: str, recipe: Recipe, estimates: Mapping[str, Estimate]) -> int:
    """Queries, and what else is looked for."""
    if kind == "teach":
        return estimates[kind].rows
    if kind == "candidates" and recipe.candidates is not None:
        return estimates[kind].rows // recipe.candidates.list_size
    return estimates["queries"].rows


def _scores(kind: str, recipe: Recipe) -> bool:
    """Whether a reranker reads what is found, which takes longer than to find it."""
    teacher, candidates = recipe.teacher, recipe.candidates
    return (kind == "teach" and teacher is not None and teacher.reranker is not None) or (
        kind == "candidates" and candidates is not None and candidates.cross_encoder is not None
    )


def _training(stage: str, kind: str, recipe: Recipe, estimates: Mapping[str, Estimate]) -> Work:
    section: TrainingSection = getattr(recipe, kind)
    if kind == "distill":
        rows = estimates["queries"].rows + (estimates["teach"].rows if "teach" in estimates else 0)
    else:
        rows = estimates[stage.replace(kind, "preferences" if kind == "align" else "permutations")].rows
    demand = _demand(recipe, section.placement, section.cpus_per_worker, float(section.use_gpu))
    return Work(stage, "rows", rows * section.epochs, section.workers, demand, together=True)


def kind_of(stage: str) -> str:
    """The stage without the number of its round."""
    return _ROUND.sub("", stage)


def _by_llm(stage: str, recipe: Recipe, estimate: Estimate) -> Work:
    """By requests, whose number and tokens per minute may be limited; by rows where the LLM is asked nothing."""
    if not estimate.llm_requests:
        return _by_actors(stage, "rows", estimate.rows, recipe, recipe.llm)
    llm, tokens = recipe.llm, estimate.llm_tokens_in + estimate.llm_tokens_out
    minutes = [
        amount / limit
        for amount, limit in ((estimate.llm_requests, llm.requests_per_minute), (tokens, llm.tokens_per_minute))
        if limit is not None
    ]
    work = _by_actors(stage, "requests", estimate.llm_requests, recipe, llm)
    return replace(work, least_s=60 * max(minutes, default=0.0))


def _by_actors(stage: str, unit: str, amount: float, recipe: Recipe, section: ActorsSection) -> Work:
    demand = _demand(recipe, section.placement, section.cpus_per_actor, section.gpus_per_actor)
    return Work(stage, unit, amount, section.actors, demand)


def _demand(recipe: Recipe, placement: PlacementSection, cpus: float, gpus: float = 0.0) -> Demand:
    labels = recipe.ray.labels | placement.labels
    return Demand(cpus, gpus, int(placement.memory_gb * 1e9), placement.accelerator_type, labels)


def _dimension(estimates: Mapping[str, Estimate], passages: int) -> int:
    encoded = estimates.get("encode_base")
    return encoded.disk_bytes // (4 * passages) if encoded is not None and passages else _USUAL_DIMENSION
