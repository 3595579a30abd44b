"""How much work each stage of a recipe has, what it is counted in, and how many workers share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.index.build import CPUS_PER_BUILDER
from pipeline.index.kinds import choose
from pipeline.recipe import ActorsSection, Recipe, TrainingSection
from pipeline.runner import plan
from pipeline.stage import Estimate
from pipeline.workspace import Workspace

Unit = Literal["passages", "requests", "rows", "comparisons"]
_USUAL_DIMENSION = 384


@dataclass(frozen=True)
class Work:
    """Of one stage.

    Args:
        unit: what its time grows with: passages; requests to the LLM; rows that training visits; comparisons of a
            query with a passage.
        workers: that share it. They are gone when one of them is where `together` (training).
        cpus: of each worker, as `gpus`.
        labels: of the nodes that they may be on.
    """

    stage: str
    unit: Unit
    amount: float
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    labels: Mapping[str, str] | None = None
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
    passages, queries = foreseen["corpus"].rows, foreseen["queries"].rows if "queries" in foreseen else 0
    of_all = dict(recipe.ray.labels)
    if stage in ("queries", "synthesis", "preferences", "permutations"):
        return _by_actors(stage, "requests", foreseen[stage].llm_requests, recipe.llm, of_all)
    if stage in ("distill", "align", "rerank"):
        section: TrainingSection = getattr(recipe, stage)
        rounds = recipe.negatives.rounds if stage == "distill" and recipe.negatives is not None else 1
        return Work(
            stage,
            "rows",
            _visited(stage, foreseen) * section.epochs * rounds,
            section.workers,
            section.cpus_per_worker,
            float(section.use_gpu),
            of_all | section.placement.labels,
            together=True,
        )
    if stage.startswith("encode_"):
        return _by_actors(stage, "passages", passages, recipe.encoder, of_all)
    if stage == "sparse":
        assert recipe.sparse is not None, "there is no such stage without the section"
        return _by_actors(stage, "passages", passages, recipe.sparse, of_all)
    index = choose(recipe.index, max(passages, 1), _dimension(foreseen, passages)).spec
    on_index = of_all | recipe.index.placement.labels
    if stage.startswith("index_"):
        return Work(stage, "passages", passages, index.shards, CPUS_PER_BUILDER, recipe.index.gpus, on_index)
    if stage == "words":
        return Work(stage, "passages", passages, -(-passages // recipe.lexical.shard_passages) or 1, labels=of_all)
    if stage == "corpus":
        return Work(stage, "passages", passages, labels=of_all)
    # What searches: every passage where the index is exact, else as many whatever the size
    amount, unit = (queries * passages, "comparisons") if index.is_exact else (queries, "rows")
    return Work(stage, unit, amount, index.shards, labels=on_index)  # type: ignore[arg-type]


def _by_actors(stage: str, unit: Unit, amount: float, section: ActorsSection, of_all: dict[str, str]) -> Work:
    labels = of_all | section.placement.labels
    return Work(stage, unit, amount, section.actors, section.cpus_per_actor, section.gpus_per_actor, labels)


def _visited(stage: str, foreseen: Mapping[str, Estimate]) -> int:
    """Rows that an epoch visits."""
    if stage == "distill":
        return foreseen["queries"].rows + (foreseen["teach"].rows if "teach" in foreseen else 0)
    return foreseen["preferences" if stage == "align" else "permutations"].rows


def _dimension(foreseen: Mapping[str, Estimate], passages: int) -> int:
    encoded = foreseen.get("encode_base")
    return encoded.disk_bytes // (4 * passages) if encoded is not None and passages else _USUAL_DIMENSION
