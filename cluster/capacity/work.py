"""How much work each stage of a recipe has, what its time grows with, and what it demands of nodes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cluster.capacity.speeds import COMPARED, COMPARED_ON_GPU, LISTED, PROBED, WEIGHED
from pipeline.encoder.systems import dense_systems
from pipeline.index.build import CPUS_PER_BUILDER
from pipeline.index.kinds import ROWS_PER_CENTROID, Spec, choose
from pipeline.llm.engines import api
from pipeline.placement import Demand
from pipeline.queries.given import SPLITS, query_files
from pipeline.queries.read import EVALUATED
from pipeline.queries.stage import given_folder
from pipeline.recipe import ActorsSection, PlacementSection, Recipe, TrainingSection
from pipeline.runner import plan
from pipeline.stage import Estimate
from pipeline.workspace import Workspace

BY_LLM = ("queries", "synthesis", "preferences", "permutations")
SEARCHING = ("mine", "teach", "candidates", "evaluate")  # without an LLM
_USUAL_DIMENSION = 384
_ROUNDS = 10  # of k-means, as Faiss has it for lists
_ROUND = re.compile(r"_round_\d+$")


@dataclass(frozen=True)
class Share:
    """What some workers of a stage do side by side; the stage's shares follow each other.

    Args:
        demand: of each worker.
        amount: in units of the stage, at its pace.
        computed: what comes on top, by name as in `speeds`, as a sample has too little of it to tell.
        slices: pieces that it comes in; more workers than pieces are of no use. None: as small as one likes.
        together: workers are gone when one of them is (training).
        at_once: all workers have to be there; else those that are do the work of the others.
        has_node: one worker has all cores of a node.
        parts: of each worker, on nodes of their own where need be; the demand is of one part.
        least_s: that it takes however many share it.
    """

    workers: int
    demand: Demand
    amount: float = 0.0
    computed: Mapping[str, float] = field(default_factory=dict)
    slices: int | None = None
    together: bool = False
    at_once: bool = False
    has_node: bool = False
    parts: int = 1
    least_s: float = 0.0


@dataclass(frozen=True)
class Work:
    """Of one stage.

    Args:
        unit: what its time grows with. A pace holds for the same unit alone, which so also names the kind of index.
    """

    stage: str
    unit: str
    amount: float
    shares: tuple[Share, ...]


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


def kind_of(stage: str) -> str:
    """The stage without the number of its round."""
    return _ROUND.sub("", stage)


def _work(stage: str, recipe: Recipe, estimates: Mapping[str, Estimate]) -> Work:
    passages, rows, kind = estimates["corpus"].rows, estimates[stage].rows, kind_of(stage)
    if kind in BY_LLM:
        return _by_llm(stage, recipe, estimates)
    if kind in ("distill", "align", "rerank"):
        return _training(stage, kind, recipe, estimates)
    if kind.startswith("encode_"):
        return _work_of("passages", stage, passages, _by_actors(recipe, recipe.encoder))
    if kind == "sparse":
        assert recipe.sparse is not None, "there is no such stage without the section"
        return _work_of("passages", stage, passages, _by_actors(recipe, recipe.sparse))
    if kind == "evaluate_reranker":
        rows = round(rows * _evaluated_share(recipe))
        return _work_of("pairs", stage, rows, _by_actors(recipe, recipe.scorer))
    if kind == "corpus":
        return _work_of("passages", stage, passages, Share(1, _on_any(recipe)))
    if kind == "words":
        shards = _word_shards(recipe, passages)
        return _work_of("passages", stage, passages, Share(shards, _on_any(recipe), slices=shards))
    spec = _spec(recipe, estimates)
    if kind.startswith("index_"):
        return _built(stage, spec, passages, recipe)
    searching = _searching(kind, recipe, estimates)
    if _scores(kind, recipe):
        return _work_of("pairs", stage, rows, _by_actors(recipe, recipe.scorer), *searching)
    # Queries are encoded, and hits of all shards put together, by actors of a dataset or by the run itself
    finds = _by_actors(recipe, recipe.encoder) if kind in ("mine", "candidates") else Share(1, _on_any(recipe))
    return _work_of(f"{spec.kind}: queries", stage, _searched(kind, recipe, estimates), finds, *searching)


def _work_of(unit: str, stage: str, amount: float, paced: Share, *others: Share) -> Work:
    return Work(stage, unit, amount, (replace(paced, amount=amount), *others))


def _built(stage: str, spec: Spec, passages: int, recipe: Recipe) -> Work:
    """An index; one of lists needs k-means, in whose rounds a sample of the vectors is compared with all centroids."""
    shards = Share(spec.shards, _of_index(recipe), slices=spec.shards)
    unit = f"{spec.kind}: passages"
    if not spec.lists:
        return _work_of(unit, stage, passages, shards)
    sample = min(spec.lists * ROWS_PER_CENTROID, passages)
    trained, listed = (count * spec.lists * spec.dimension for count in (_ROUNDS * sample, passages))
    compared = COMPARED_ON_GPU if recipe.index.gpus else COMPARED
    first = Share(1, shards.demand, computed={compared: trained}, has_node=True)
    return Work(stage, unit, passages, (first, replace(shards, amount=passages, computed={compared: listed})))


def _searching(kind: str, recipe: Recipe, estimates: Mapping[str, Estimate]) -> list[Share]:
    """What shards do, of vectors and of words, for all that the stage looks for."""
    passages, queries = estimates["corpus"].rows, _searched(kind, recipe, estimates)
    candidates, preferences = recipe.candidates, recipe.preferences
    sources = {
        "queries": ("bm25",),
        "mine": ("dense",),
        "teach": ("bm25", "dense"),
        "preferences": ("dense",) if preferences is not None and preferences.path is None else (),
        "candidates": candidates.sources if candidates is not None else (),
        "evaluate": ("bm25", *("dense" for _ in dense_systems(estimates))),
    }.get(kind, ())
    shares: list[Share] = []
    if not queries:
        return shares
    if dense := sources.count("dense"):
        spec = _spec(recipe, estimates)
        computed = {name: dense * queries * count for name, count in _seen_by_query(spec, passages, recipe).items()}
        shares.append(Share(spec.shards, _of_index(recipe), computed=computed))
    if "bm25" in sources or "cross_encoder" in sources:  # which reads what BM25 finds
        computed = {WEIGHED: queries * passages}
        shares.append(Share(_word_shards(recipe, passages), _on_any(recipe), computed=computed))
    return shares


def _seen_by_query(spec: Spec, passages: int, recipe: Recipe) -> dict[str, float]:
    """Numbers of vectors that one query is compared with: every passage's, or centroids and what is in probed lists.

    None of a graph: what its search takes hardly grows, and is in its pace.
    """
    if spec.is_exact:
        return {COMPARED_ON_GPU if recipe.index.gpus else COMPARED: passages * spec.dimension}
    if not spec.lists:
        return {}
    probed = min((recipe.index.probes or PROBED) / spec.lists, 1)
    compared, listed = spec.shards * spec.lists * spec.dimension, passages * probed * spec.dimension
    return {COMPARED: compared, LISTED[spec.kind]: listed}


def _searched(kind: str, recipe: Recipe, estimates: Mapping[str, Estimate]) -> int:
    """Queries, and what else is looked for."""
    queries, evaluated = estimates["queries"].rows, _evaluated_share(recipe)
    if kind == "queries":
        return estimates[kind].llm_requests
    if kind == "teach":
        return estimates[kind].rows
    if kind == "candidates" and recipe.candidates is not None:
        return estimates[kind].rows // recipe.candidates.list_size
    if kind == "preferences" and recipe.preferences is not None:
        return min(queries, recipe.preferences.max_queries or queries)
    return math.ceil(queries * (evaluated if kind == "evaluate" else 1 - evaluated))


def _evaluated_share(recipe: Recipe) -> float:
    """Of all queries, those of dev and test; of given ones by the bytes of their judgments."""
    section, folder = recipe.queries, given_folder(recipe)
    sizes = {info.base_name.removesuffix(".tsv"): info.size or 0 for info in query_files(folder)} if folder else {}
    judged = {split: sum(sizes.get(name, 0) for name in names) for split, names in SPLITS.items()}
    evaluated = sum(judged[split] for split in EVALUATED)
    return evaluated / sum(judged.values()) if evaluated else section.dev_share + section.test_share


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
    return _work_of("rows", stage, rows * section.epochs, Share(section.workers, demand, together=True, at_once=True))


def _by_llm(stage: str, recipe: Recipe, estimates: Mapping[str, Estimate]) -> Work:
    """By requests, whose number and tokens per minute may be limited; by rows where the LLM is asked nothing."""
    llm, estimate = recipe.llm, estimates[stage]
    cpus, gpus = api.share(llm) if llm.engine == "openai" else (llm.cpus_per_actor, llm.gpus_per_actor)
    demand = _demand(recipe, llm.placement, cpus / llm.parts, gpus / llm.parts)
    share, searching = (
        Share(llm.actors, demand, parts=llm.parts, at_once=True),
        _searching(kind_of(stage), recipe, estimates),
    )
    if not estimate.llm_requests:
        return _work_of("rows", stage, estimate.rows, share, *searching)
    tokens = estimate.llm_tokens_in + estimate.llm_tokens_out
    minutes = [
        amount / limit
        for amount, limit in ((estimate.llm_requests, llm.requests_per_minute), (tokens, llm.tokens_per_minute))
        if limit is not None
    ]
    limited = replace(share, least_s=60 * max(minutes, default=0.0))
    return _work_of("requests", stage, estimate.llm_requests, limited, *searching)


def _by_actors(recipe: Recipe, section: ActorsSection) -> Share:
    demand = _demand(recipe, section.placement, section.cpus_per_actor, section.gpus_per_actor)
    return Share(section.actors, demand, at_once=True)


def _of_index(recipe: Recipe) -> Demand:
    return _demand(recipe, recipe.index.placement, CPUS_PER_BUILDER, recipe.index.gpus)


def _on_any(recipe: Recipe) -> Demand:
    return _demand(recipe, PlacementSection(), 1)


def _demand(recipe: Recipe, placement: PlacementSection, cpus: float, gpus: float = 0.0) -> Demand:
    labels = recipe.ray.labels | placement.labels
    return Demand(cpus, gpus, int(placement.memory_gb * 1e9), placement.accelerator_type, labels)


def _spec(recipe: Recipe, estimates: Mapping[str, Estimate]) -> Spec:
    passages, encoded = max(estimates["corpus"].rows, 1), estimates.get("encode_base")
    dimension = encoded.disk_bytes // (4 * passages) if encoded is not None else 0
    return choose(recipe.index, passages, dimension or _USUAL_DIMENSION).spec


def _word_shards(recipe: Recipe, passages: int) -> int:
    return max(1, math.ceil(passages / recipe.lexical.shard_passages))
