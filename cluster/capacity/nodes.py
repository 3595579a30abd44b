"""Kinds of nodes that a cluster file knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import RayrieverError
from pipeline.placement import ACCELERATOR, NODE_GROUP, Demand, Node


@dataclass(frozen=True)
class NodeType:
    """What a node has, how many there may be, the price of one for an hour, and whether it may be taken away.

    Args:
        resources: by name. Memory and accelerators that are not declared, Ray takes from the machine when it is there:
            they are taken to be enough.
        idle_s: seconds after which one without work goes.
    """

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    most: int
    price: float | None = None
    is_spot: bool = False
    idle_s: float = 300.0

    def room_for(self, demand: Demand) -> int:
        """How many of the demand a node of the kind holds."""
        if "memory" not in self.resources:
            demand = replace(demand, memory=0)
        if not any(name.startswith(ACCELERATOR) for name in self.resources):
            demand = replace(demand, accelerator_type=None)
        return int(Node(self.resources, self.labels).room_for(demand))


@dataclass(frozen=True)
class NodeTypes:
    """Those that work goes to; the head does none."""

    types: tuple[NodeType, ...]

    def cheapest_for(self, stage: str, demand: Demand, workers: int, parts: int = 1) -> NodeType:
        """By price per worker; where none is needed, one without a GPU, and one with a price before one without.

        Args:
            parts: of a worker, each with this demand, which may be on nodes of their own.

        Raises RayrieverError where all nodes of no type hold a worker.
        """
        fitting = [each for each in self.types if each.most * each.room_for(demand) >= parts]
        if not fitting:
            names = ", ".join(each.name for each in self.types)
            of = f"{parts} parts with {demand} each" if parts > 1 else demand
            raise RayrieverError(f"{stage}: none of the node types {names} holds a worker of {of}.")

        def dearness(node: NodeType) -> tuple[bool, bool, float, float]:
            gpus = node.resources.get("GPU", 0.0)
            held = min(node.room_for(demand), workers * parts)
            return bool(gpus) and not demand.gpus, node.price is None, (node.price or 0.0) / held, gpus / held

        return min(fitting, key=dearness)


def read_node_types(path: Path, prices: Mapping[str, float]) -> NodeTypes:
    """From a Ray cluster file. Raises RayrieverError where it is none, or a price names no node type of it."""
    try:
        content = yaml.safe_load(path.read_text())
        workers = {
            name: each for name, each in content["available_node_types"].items() if name != content["head_node_type"]
        }
        types = [_node_type(name, each, content, prices.get(name)) for name, each in workers.items()]
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise RayrieverError(f"{path}: not a Ray cluster file ({type(error).__name__}: {error}).") from error
    unknown = sorted(prices.keys() - workers.keys())
    if unknown:
        raise RayrieverError(f"--price {unknown[0]}: {path} has no such node type; it has {', '.join(workers)}.")
    return NodeTypes(tuple(types))


def _node_type(name: str, values: Mapping[str, Any], file: Mapping[str, Any], price: float | None) -> NodeType:
    most, idle_s = int(file.get("max_workers", 1)), values.get("idle_timeout_s")
    market = (values.get("node_config") or {}).get("InstanceMarketOptions") or {}
    return NodeType(
        name,
        {key: float(amount) for key, amount in (values.get("resources") or {}).items()},
        {NODE_GROUP: name, **(values.get("labels") or {})},
        min(int(values.get("max_workers", most)), most),
        price,
        market.get("MarketType") == "spot",
        60 * float(file.get("idle_timeout_minutes", 5)) if idle_s is None else float(idle_s),
    )


def prices_of(written: Sequence[str]) -> dict[str, float]:
    """Of TYPE=MONEY. Raises RayrieverError for what is not."""
    found = {}
    for text in written:
        name, _, money = text.partition("=")
        try:
            found[name] = float(money)
        except ValueError as error:
            raise RayrieverError(f"--price {text}: not NODE_TYPE=MONEY_PER_HOUR.") from error
    return found
