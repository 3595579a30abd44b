"""Hours, nodes, money and storage of a run on a cluster, stage by stage, and how much chance may add."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.capacity.calibration import Calibration, Pace
from cluster.capacity.nodes import NodeTypes
from cluster.capacity.simulation import Chances, Job, Played, play
from cluster.capacity.speeds import seconds_of
from cluster.capacity.work import Share, Work, foreseen, work_of
from pipeline.llm.pricing import cost
from pipeline.recipe import Recipe
from pipeline.stage import Estimate

_OWN_TABLES = "distill (rows of distill.datasets)"
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
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of no run."""
        if not values:
            return None
        tenths = statistics.quantiles(values, n=10, method="inclusive")
        return cls(*(round(each, 3) for each in (tenths[0], tenths[4], tenths[8])))


@dataclass(frozen=True)
class CapacityPlan:
    """Of a run over so many passages.

    Args:
        unmeasured: stages with work whose pace is not known: they are in no sum.
        rough: stages that are reckoned with the most that they may take, as the samples were too small to measure them.
        hours, nodes_money: sums of the stages.
        llm_money: by llm.price; None where that is not known, or the LLM runs on nodes of the cluster.
        endless: stages that lose more with spot nodes than they do before the next one goes: they would hardly end.
        crowded: stages whose workers have to be there at once, and are more than the nodes hold, in words.
        hours_spread, money_spread, losses: of runs that were played through, with nodes that start, idle and are lost;
            None where a stage is endless.
    """

    passages: int
    stages: tuple[StagePlan, ...]
    unmeasured: tuple[str, ...]
    rough: tuple[str, ...]
    endless: tuple[str, ...]
    crowded: tuple[str, ...]
    hours: float
    nodes_money: float | None
    llm_money: float | None
    storage_gb: float
    bottleneck: str
    hours_spread: Spread | None
    money_spread: Spread | None
    losses: Spread | None

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
    chances = chances or Chances()
    estimates = foreseen(recipe, passages)
    prices = {each.name: each.price for each in nodes.types}
    stages: list[StagePlan] = []
    jobs: list[Job] = []
    rough, endless, crowded = [], [], []
    unmeasured = [_OWN_TABLES] if recipe.distill.datasets else []
    for work in (each for each in work_of(recipe, estimates) if each.amount):
        pace = calibration.pace(work)
        if pace is None or (lacking := _lacking(work, calibration, recipe)):
            unmeasured.append(f"{work.stage} ({work.unit}{'' if pace is None else lacking})")
            continue
        if pace.is_rough:
            rough.append(work.stage)
        made = [_job(work, share, pace, nodes, calibration.speeds) for share in work.shares]
        jobs += made
        if not all(job.ends(chances) for job in made):
            endless.append(work.stage)
        for share, job in zip(work.shares, made, strict=True):
            if share.at_once and job.workers < share.workers * share.parts:
                held = job.workers // share.parts
                crowded.append(
                    f"{work.stage}: nodes of type {job.node_type} hold {held} of its {share.workers} workers"
                )
        stages.append(_stage_plan(work, made, prices, estimates[work.stage]))
    priced = all(each.money is not None for each in stages)
    played = [] if endless else [play(jobs, chances, seed + number) for number in range(_PLAYED)]
    return CapacityPlan(
        passages=estimates["corpus"].rows,
        stages=tuple(stages),
        unmeasured=tuple(unmeasured),
        rough=tuple(rough),
        endless=tuple(endless),
        crowded=tuple(crowded),
        hours=sum(each.hours for each in stages),
        nodes_money=sum(each.money or 0.0 for each in stages) if priced else None,
        llm_money=_llm_money(recipe, estimates),
        storage_gb=sum(each.disk_bytes for each in estimates.values()) / 1e9,
        bottleneck=max(stages, key=lambda each: each.hours).stage if stages else "",
        hours_spread=Spread.of([run.seconds / 3600 for run in played]),
        money_spread=Spread.of([_nodes_money(run, prices) for run in played]) if priced else None,
        losses=Spread.of([run.losses for run in played]),
    )


def _lacking(work: Work, calibration: Calibration, recipe: Recipe) -> str:
    """What keeps a pace from being of use here, in words; empty for nothing."""
    if others := calibration.other_values(work.stage, recipe):
        return f", measured with other values of {', '.join(others)}"
    unknown = {name for share in work.shares for name in share.computed if name not in calibration.speeds}
    return f", {', '.join(sorted(unknown))}" if unknown else ""


def _job(work: Work, share: Share, pace: Pace, nodes: NodeTypes, speeds: Mapping[str, float]) -> Job:
    """A share of the work on the nodes of one kind. What the stage costs once goes with what is at its pace."""
    places = share.workers * share.parts  # what nodes have room for is a part of a worker
    node = nodes.cheapest_for(work.stage, share.demand, share.workers, share.parts)
    per_node = min(node.room_for(share.demand), places)
    places = min(places, node.most * per_node) // share.parts * share.parts
    seconds = pace.worker_s_per_unit * share.amount * share.parts + seconds_of(share.computed, speeds)
    if share.has_node:
        seconds /= max(node.resources.get("CPU", 1.0), 1.0)
    return Job(
        node.name,
        node.is_spot,
        max(seconds, share.least_s * places),
        pace.overhead_s if share.amount else 0.0,
        places,
        1 if share.has_node else per_node,
        share.slices,
        share.together,
        node.idle_s,
    )


def _stage_plan(work: Work, jobs: Sequence[Job], prices: Mapping[str, float | None], estimate: Estimate) -> StagePlan:
    """Its sums, and the workers and nodes of the share that takes the longest."""
    longest = max(jobs, key=lambda job: job.seconds)
    per_node = min(longest.workers, longest.workers_per_node)
    money = [
        None if (price := prices[job.node_type]) is None else job.seconds / 3600 * job.nodes * price for job in jobs
    ]
    return StagePlan(
        stage=work.stage,
        unit=work.unit,
        amount=work.amount,
        per_node_s=work.amount / longest.work_s * per_node if longest.work_s else 0.0,
        node_type=longest.node_type,
        workers=longest.workers,
        nodes=longest.nodes,
        hours=sum(job.seconds for job in jobs) / 3600,
        money=None if None in money else sum(each or 0.0 for each in money),
        storage_gb=estimate.disk_bytes / 1e9,
    )


def _nodes_money(run: Played, prices: Mapping[str, float | None]) -> float:
    return sum(seconds / 3600 * (prices[kind] or 0.0) for kind, seconds in run.node_s.items())


def _llm_money(recipe: Recipe, estimates: Mapping[str, Estimate]) -> float | None:
    if recipe.llm.price is None or recipe.llm.engine in ("transformers", "vllm"):
        return None
    tokens = [sum(getattr(each, f"llm_tokens_{way}") for each in estimates.values()) for way in ("in", "out")]
    return cost(recipe.llm.price, tokens[0], 0, tokens[1])
