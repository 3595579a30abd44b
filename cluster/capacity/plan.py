"""Hours, nodes, money and storage of a run on a cluster, stage by stage, and how much chance may add."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.capacity.calibration import Calibration
from cluster.capacity.nodes import NodeTypes
from cluster.capacity.simulation import Chances, Job, play
from cluster.capacity.work import Work, estimates, work_of
from pipeline.llm.pricing import cost
from pipeline.recipe import Recipe
from pipeline.stage import Estimate

_PLAYED = 100  # times that a run is played through


@dataclass(frozen=True)
class StagePlan:
    """What a stage would take, if all goes as measured and its nodes are there.

    Args:
        per_node_s: units that a node does per second.
        workers: at work at once: the recipe's, or as many as the nodes of the type hold.
        money: of its nodes for these hours; None without a price. The LLM's is of the whole.
    """

    stage: str
    unit: str
    amount: float
    per_node_s: float
    node_type: str
    workers: int
    nodes: int
    hours: float
    money: float | None
    storage_gb: float


@dataclass(frozen=True)
class Spread:
    """The 10th, 50th and 90th of a hundred runs."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        tenths = statistics.quantiles(values, n=10, method="inclusive")
        return cls(*(round(each, 3) for each in (tenths[0], tenths[4], tenths[8])))


@dataclass(frozen=True)
class CapacityPlan:
    """Of a run over so many passages.

    Args:
        unmeasured: stages with work whose pace is not known: they are in no sum.
        hours, nodes_money: sums of the stages.
        llm_money: by llm.price; None where that is not known, or the LLM runs on nodes of the cluster.
        hours_spread, money_spread: of runs that were played through, with nodes that start, idle and are lost.
    """

    passages: int
    stages: tuple[StagePlan, ...]
    unmeasured: tuple[str, ...]
    hours: float
    nodes_money: float | None
    llm_money: float | None
    storage_gb: float
    bottleneck: str
    hours_spread: Spread
    money_spread: Spread | None
    losses: Spread

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan_capacity(
    recipe: Recipe,
    nodes: NodeTypes,
    calibration: Calibration,
    passages: int | None = None,
    chances: Chances | None = None,
    seed: int = 0,
) -> CapacityPlan:
    """Reckon with the measured paces, then play the run through by chance.

    Args:
        passages: size of the corpus; default: what it has.

    Raises RayrieverError where no node type holds a worker of a stage.
    """
    chances = chances or Chances(idle_s=nodes.idle_s)
    foreseen = estimates(recipe, passages)
    stages, jobs, unmeasured = [], [], []
    for work in (each for each in work_of(recipe, foreseen) if each.amount):
        if (job := _job(work, nodes, calibration)) is None:
            unmeasured.append(f"{work.stage} ({work.unit})")
            continue
        jobs.append(job)
        stages.append(_stage_plan(work, job, nodes, foreseen[work.stage]))
    prices = {each.name: each.price for each in nodes.types}
    priced = all(each.money is not None for each in stages)
    played = [play(jobs, chances, seed + number) for number in range(_PLAYED)]
    return CapacityPlan(
        passages=foreseen["corpus"].rows,
        stages=tuple(stages),
        unmeasured=tuple(unmeasured),
        hours=sum(each.hours for each in stages),
        nodes_money=sum(each.money or 0.0 for each in stages) if priced else None,
        llm_money=_llm_money(recipe, foreseen),
        storage_gb=sum(each.disk_bytes for each in foreseen.values()) / 1e9,
        bottleneck=max(stages, key=lambda each: each.hours).stage if stages else "",
        hours_spread=Spread.of([run.seconds / 3600 for run in played]),
        money_spread=Spread.of(
            [sum(seconds / 3600 * (prices[kind] or 0.0) for kind, seconds in run.node_s.items()) for run in played]
        )
        if priced
        else None,
        losses=Spread.of([run.losses for run in played]),
    )


def _job(work: Work, nodes: NodeTypes, calibration: Calibration) -> Job | None:
    """None where nobody has measured it."""
    if (pace := calibration.pace(work)) is None:
        return None
    chosen = nodes.cheapest_for(work.stage, work.demand)
    per_node = min(chosen.room_for(work.demand), work.workers)
    workers = min(work.workers, chosen.most * per_node)
    seconds = pace.worker_s_per_unit * work.amount
    return Job(chosen.name, chosen.is_spot, seconds, pace.overhead_s, workers, per_node, work.slices, work.together)


def _stage_plan(work: Work, job: Job, nodes: NodeTypes, estimate: Estimate) -> StagePlan:
    hours = job.seconds / 3600
    price = next(each.price for each in nodes.types if each.name == job.node_type)
    return StagePlan(
        stage=work.stage,
        unit=work.unit,
        amount=work.amount,
        per_node_s=work.amount / job.work_s * min(job.workers, job.workers_per_node) if job.work_s else 0.0,
        node_type=job.node_type,
        workers=job.workers,
        nodes=job.nodes,
        hours=hours,
        money=None if price is None else hours * job.nodes * price,
        storage_gb=estimate.disk_bytes / 1e9,
    )


def _llm_money(recipe: Recipe, foreseen: Mapping[str, Estimate]) -> float | None:
    if recipe.llm.price is None or recipe.llm.engine in ("transformers", "vllm"):
        return None
    tokens = [sum(getattr(each, f"llm_tokens_{way}") for each in foreseen.values()) for way in ("in", "out")]
    return cost(recipe.llm.price, tokens[0], 0, tokens[1])
