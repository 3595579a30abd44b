"""Hours, nodes, money and storage of a run on a cluster, stage by stage, and how much chance may add."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.capacity.calibration import Calibration
from cluster.capacity.simulation import Chances, Job, play
from cluster.capacity.work import Work, estimates, work_of
from pipeline.errors import RayrieverError
from pipeline.llm.pricing import cost
from pipeline.placement import NODE_GROUP, Demand, Node
from pipeline.recipe import Recipe

_PLAYED = 200  # times that a run is played through


@dataclass(frozen=True)
class Group:
    """A kind of node: what each has, how many there may be, and the price of one for an hour."""

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    most: int
    price: float = 0.0


@dataclass(frozen=True)
class StagePlan:
    """What a stage would take, if all goes as measured.

    Args:
        workers: at work at once: the recipe's, or as many as the nodes of the group hold.
        hours: from its beginning to its end, a node's start not counted.
        money: for its nodes; the LLM's is of the whole.
    """

    stage: str
    unit: str
    amount: float
    group: str
    workers: int
    nodes: int
    hours: float
    money: float
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
    """Of a run over so many passages."""

    passages: int
    stages: tuple[StagePlan, ...]
    unmeasured: tuple[str, ...]  # stages with work that the calibration knows nothing of: not in the sums
    hours: float
    nodes_money: float
    llm_money: float | None  # by llm.price; None where that is not known, or the LLM runs on nodes of the cluster
    storage_gb: float
    bottleneck: str
    hours_spread: Spread
    money_spread: Spread
    losses: Spread

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_groups(path: Path, prices: Mapping[str, float]) -> list[Group]:
    """The workers of a Ray cluster file. Raises RayrieverError where it is none, or a price names no group of it."""
    try:
        content = yaml.safe_load(path.read_text())
        types, head = content["available_node_types"], content["head_node_type"]
        groups = [
            Group(
                name,
                {key: float(amount) for key, amount in each.get("resources", {}).items()},
                {NODE_GROUP: name, **each.get("labels", {})},
                int(each.get("max_workers", content.get("max_workers", 1))),
                prices.get(name, 0.0),
            )
            for name, each in types.items()
            if name != head
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RayrieverError(f"{path}: not a Ray cluster file with available_node_types ({error!r}).") from error
    unknown = sorted(set(prices) - {group.name for group in groups})
    if unknown:
        raise RayrieverError(
            f"--price {unknown[0]}: {path} has no such node type; it has {', '.join(g.name for g in groups)}."
        )
    return groups


def plan_capacity(
    recipe: Recipe,
    groups: Sequence[Group],
    calibration: Calibration,
    passages: int | None = None,
    chances: Chances | None = None,
    seed: int = 0,
) -> CapacityPlan:
    """Reckon with the measured paces, then play the run through by chance.

    Args:
        passages: size of the corpus; default: what it has.

    Raises RayrieverError where no group holds a worker of a stage.
    """
    foreseen = estimates(recipe, passages)
    stages, jobs, unmeasured = [], [], []
    for work in work_of(recipe, foreseen):
        pace = calibration.paces.get(work.stage)
        if not work.amount:
            continue
        if pace is None or pace.unit != work.unit:
            unmeasured.append(work.stage)
            continue
        group, per_node = _group_for(work, groups)
        workers = min(work.workers, group.most * per_node)
        nodes = math.ceil(workers / per_node)
        hours = pace.seconds(work, workers) / 3600
        storage = foreseen[work.stage].disk_bytes / 1e9
        money = hours * nodes * group.price
        stages.append(StagePlan(work.stage, work.unit, work.amount, group.name, workers, nodes, hours, money, storage))
        jobs.append(
            (Job(pace.worker_s_per_unit * work.amount, pace.overhead_s, workers, per_node, work.together), group.price)
        )
    played = [play([job for job, _ in jobs], chances or Chances(), seed + number) for number in range(_PLAYED)]
    prices = [price for _, price in jobs]
    return CapacityPlan(
        passages=foreseen["corpus"].rows,
        stages=tuple(stages),
        unmeasured=tuple(unmeasured),
        hours=sum(each.hours for each in stages),
        nodes_money=sum(each.money for each in stages),
        llm_money=_llm_money(recipe, foreseen),
        storage_gb=sum(each.disk_bytes for each in foreseen.values()) / 1e9,
        bottleneck=max(stages, key=lambda each: each.hours).stage if stages else "",
        hours_spread=Spread.of([sum(each.seconds for each in run) / 3600 for run in played]),
        money_spread=Spread.of(
            [sum(each.node_s / 3600 * price for each, price in zip(run, prices, strict=True)) for run in played]
        ),
        losses=Spread.of([sum(each.losses for each in run) for run in played]),
    )


def _group_for(work: Work, groups: Sequence[Group]) -> tuple[Group, int]:
    """The cheapest group that holds a worker, and how many a node of it holds."""
    demand = Demand(work.cpus, work.gpus, labels=work.labels or {})
    held = [(group, int(Node(group.resources, group.labels).room_for(demand))) for group in groups]
    fitting = [(group.price / room, group.resources.get("GPU", 0.0), group, room) for group, room in held if room]
    if not fitting:
        names = ", ".join(group.name for group in groups)
        raise RayrieverError(f"{work.stage}: none of the node types {names} holds a worker of {demand}.")
    *_, group, room = min(fitting, key=lambda each: each[:2])
    return group, room


def _llm_money(recipe: Recipe, foreseen: Mapping[str, Any]) -> float | None:
    if recipe.llm.price is None or recipe.llm.engine in ("transformers", "vllm"):
        return None
    tokens = [sum(getattr(each, f"llm_tokens_{way}") for each in foreseen.values()) for way in ("in", "out")]
    return cost(recipe.llm.price, tokens[0], 0, tokens[1])
