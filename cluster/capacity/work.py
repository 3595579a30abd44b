"""How much work each stage of a recipe has, what its time grows with, and what it demands of nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.index.build import CPUS_PER_BUILDER
from pipeline.index.kinds import Spec, choose
from pipeline.placement import Demand
from pipeline.recipe import ActorsSection, PlacementSection, Recipe, TrainingSection
from pipeline.runner import plan
from pipeline.stage import Estimate
from pipeline.workspace import Workspace

_USUAL_DIMENSION = 384
_ROUND = re.compile(r"_round_\d+$")


@dataclass(frozen=True)
class Work:
    """Of one stage.

    Args:
        unit: what its time grows with: passages, requests to the LLM, rows that are trained on or scored, comparisons
            of two vectors. A pace holds for the same unit alone, which so also names the kind of index.
        slices: pieces that it comes in; more workers than pieces are of no use. None: as small as one likes.
        workers: that share it. They are gone when one of them is where `together` (training).
        demand: of each worker.
    """

    stage: str
    unit: str
    amount: float
    workers: int
    demand: Demand
    slices: int | None = None
    together: bool = False


def estimates(recipe: Recipe, passages: int | None = None) -> dict[str, Estimate]:
    """Of every stage by name: what it has been, where it is finished, or will be.

    Args:
        passages: as if the corpus had so many, and nothing were finished.
    """
    steps = plan(recipe, Workspace(recipe.workspace))
    if passages is None:
        return {step.stage.name: step.estimate for step in steps}
    found: dict[str, Estimate] = {}
    for step in steps:
        name = step.stage.name
        upstream = {each: found[each] for each in step.stage.inputs if each in found}
        found[name] = _of_size(step.estimate, passages) if name == "corpus" else step.stage.estimate(recipe, upstream)
    return found


def _of_size(corpus: Estimate, passages: int) -> Estimate:
    return replace(corpus, rows=passages, disk_bytes=round(corpus.disk_bytes * passages / max(corpus.rows, 1)))


def work_of(recipe: Recipe, foreseen: Mapping[str, Estimate]) -> list[Work]:
    """The stages in order; `foreseen` is of `estimates`."""
    return [_work(name, recipe, foreseen) for name in foreseen]


def _work(stage: str, recipe: Recipe, foreseen: Mapping[str, Estimate]) -> Work:
    passages, queries, kind = foreseen["corpus"].rows, foreseen["queries"].rows, kind_of(stage)
    if kind in ("queries", "synthesis", "preferences", "permutations"):
        return _by_actors(stage, "requests", foreseen[stage].llm_requests, recipe, recipe.llm)
    if kind in ("distill", "align", "rerank"):
        return _training(stage, kind, recipe, foreseen)
    if kind.startswith("encode_"):
        return _by_actors(stage, "passages", passages, recipe, recipe.encoder)
    if kind == "sparse":
        assert recipe.sparse is not None, "there is no such stage without the section"
        return _by_actors(stage, "passages", passages, recipe, recipe.sparse)
    if kind == "evaluate_reranker":
        return _by_actors(stage, "queries", queries, recipe, recipe.scorer)
    spec = choose(recipe.index, max(passages, 1), _dimension(foreseen, passages)).spec
    index = _demand(recipe, recipe.index.placement, CPUS_PER_BUILDER, recipe.index.gpus)
    if kind.startswith("index_"):
        return Work(stage, f"{spec.kind}: {_NEAREST}", _assigned(spec, passages), spec.shards, index, spec.shards)
    on_any = _demand(recipe, PlacementSection(), 1)
    if kind == "words":
        shards = max(1, -(-passages // recipe.lexical.shard_passages))
        return Work(stage, "passages", passages, shards, on_any, shards)
    if kind == "corpus":
        return Work(stage, "passages", passages, 1, on_any)
    return Work(stage, f"{spec.kind}: comparisons", queries * _compared(spec, passages), spec.shards, index)


_NEAREST = "comparisons with lists"


def _assigned(spec: Spec, passages: int) -> float:
    """Of each passage with the centroids of all lists; where there are none, it is one for each passage."""
    return passages * max(spec.lists, 1)


def _compared(spec: Spec, passages: int) -> float:
    """By one query: every passage, or lists and what is in those that are probed, which grow alike (4 sqrt(n))."""
    return passages if spec.is_exact else spec.shards * max(spec.lists, 1)


def _training(stage: str, kind: str, recipe: Recipe, foreseen: Mapping[str, Estimate]) -> Work:
    section: TrainingSection = getattr(recipe, kind)
    if kind == "distill":
        rows = foreseen["queries"].rows + (foreseen["teach"].rows if "teach" in foreseen else 0)
    else:
        rows = foreseen[stage.replace(kind, "preferences" if kind == "align" else "permutations")].rows
    demand = _demand(recipe, section.placement, section.cpus_per_worker, float(section.use_gpu))
    return Work(stage, "rows", rows * section.epochs, section.workers, demand, together=True)


def kind_of(stage: str) -> str:
    """The stage without the number of its round."""
    return _ROUND.sub("", stage)


def _by_actors(stage: str, unit: str, amount: float, recipe: Recipe, section: ActorsSection) -> Work:
    demand = _demand(recipe, section.placement, section.cpus_per_actor, section.gpus_per_actor)
    return Work(stage, unit, amount, section.actors, demand)


def _demand(recipe: Recipe, placement: PlacementSection, cpus: float, gpus: float = 0.0) -> Demand:
    labels = recipe.ray.labels | placement.labels
    return Demand(cpus, gpus, int(placement.memory_gb * 1e9), placement.accelerator_type, labels)


def _dimension(foreseen: Mapping[str, Estimate], passages: int) -> int:
    encoded = foreseen.get("encode_base")
    return encoded.disk_bytes // (4 * passages) if encoded is not None and passages else _USUAL_DIMENSION
