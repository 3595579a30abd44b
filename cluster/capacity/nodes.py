"""Kinds of nodes that a cluster file knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import RayrieverError
from pipeline.placement import NODE_GROUP, Demand, Node


@dataclass(frozen=True)
class NodeType:
    """What a node has, how many there may be, the price of one for an hour, and whether it may be taken away."""

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    most: int
    price: float | None = None
    is_spot: bool = False

    def room_for(self, demand: Demand) -> int:
        """How many of the demand a node of the kind holds."""
        return int(Node(self.resources, self.labels).room_for(demand))


@dataclass(frozen=True)
class NodeTypes:
    """Those that work goes to; the head does none.

    Args:
        idle_s: seconds after which a node without work goes.
    """

    types: tuple[NodeType, ...]
    idle_s: float

    def cheapest_for(self, stage: str, demand: Demand) -> NodeType:
        """By price per worker, and without a GPU before with one. Raises RayrieverError where none holds a worker."""
        fitting = [each for each in self.types if each.most and each.room_for(demand)]
        if not fitting:
            names = ", ".join(each.name for each in self.types)
            raise RayrieverError(f"{stage}: none of the node types {names} holds a worker of {demand}.")
        return min(fitting, key=lambda t: (t.resources.get("GPU", 0.0), (t.price or 0.0) / t.room_for(demand)))


def read_node_types(path: Path, prices: Mapping[str, float]) -> NodeTypes:
    """From a Ray cluster file. Raises RayrieverError where it is none, or a price names no node type of it."""
    try:
        content = yaml.safe_load(path.read_text())
        workers = {
            name: each for name, each in content["available_node_types"].items() if name != content["head_node_type"]
        }
        types = [_node_type(name, each, content, prices.get(name)) for name, each in workers.items()]
        idle_s = 60 * float(content.get("idle_timeout_minutes", 5))
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise RayrieverError(f"{path}: not a Ray cluster file ({type(error).__name__}: {error}).") from error
    unknown = sorted(prices.keys() - workers.keys())
    if unknown:
        raise RayrieverError(f"--price {unknown[0]}: {path} has no such node type; it has {', '.join(workers)}.")
    return NodeTypes(tuple(types), idle_s)


def _node_type(name: str, values: Mapping[str, Any], file: Mapping[str, Any], price: float | None) -> NodeType:
    market = (values.get("node_config") or {}).get("InstanceMarketOptions") or {}
    return NodeType(
        name,
        {key: float(amount) for key, amount in (values.get("resources") or {}).items()},
        {NODE_GROUP: name, **(values.get("labels") or {})},
        int(values.get("max_workers", file.get("max_workers", 1))),
        price,
        market.get("MarketType") == "spot",
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
