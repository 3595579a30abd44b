"""What an actor, task or worker demands of a node, as Ray is told it, and whether the cluster can ever grant it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor, inf
from typing import Any

from pipeline.errors import RayrieverError
from pipeline.recipe import ActorsSection, PlacementSection

NODE_GROUP = "ray.io/node-group"  # set by Ray to the node type of the cluster's file, or KubeRay's worker group
ACCELERATOR = "accelerator_type:"  # a resource that Ray gives to nodes with one
_POLL_S, _SURE_AFTER_S, _ANSWER_WITHIN_S = 0.3, 12.0, 120.0  # the autoscaler's rounds take five seconds


@dataclass(frozen=True)
class Demand:
    """Of one actor, task or worker.

    Args:
        memory: in bytes; Ray counts it, and does not hold anybody to it.
        accelerator_type: kind of GPU, as Ray names it.
        labels: that the node must have, as Ray's label selector; those of `ray.labels` go with them.
    """

    cpus: float = 0.0
    gpus: float = 0.0
    memory: int = 0
    accelerator_type: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, placement: PlacementSection, cpus: float = 0.0, gpus: float = 0.0) -> Demand:
        """With what the placement adds, and `ray.labels`."""
        labels = labels_of_all() | placement.labels
        return cls(cpus, gpus, int(placement.memory_gb * 1e9), placement.accelerator_type, labels)

    def options(self) -> dict[str, Any]:
        """For `ray.remote` and `map_batches`."""
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            **({"memory": self.memory} if self.memory else {}),
            **({"accelerator_type": self.accelerator_type} if self.accelerator_type else {}),
            **({"label_selector": dict(self.labels)} if self.labels else {}),
        }

    def bundle(self) -> dict[str, float]:
        """For a placement group, without labels."""
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        if self.accelerator_type:
            named[ACCELERATOR + self.accelerator_type] = 0.001  # as Ray itself asks for one
        return {name: amount for name, amount in named.items() if amount}

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPUs", f"{self.gpus:g} GPUs"]
        if self.accelerator_type:
            parts.append(f"accelerator {self.accelerator_type}")
        if self.memory:
            parts.append(f"{self.memory / 1e9:.3g} GB")
        where = ", ".join(f"{key}: {value}" for key, value in sorted(self.labels.items()))
        return ", ".join(parts) + (f" on nodes labelled {where}" if where else "")


def labels_of_all() -> dict[str, str]:
    """`ray.labels` of this process: Ray Data keeps them for what it starts by itself."""
    from ray.data import DataContext

    return dict(DataContext.get_current().execution_options.label_selector or {})


def place_actors(name: str, section: ActorsSection, share: tuple[float, float] | None = None, parts: int = 1) -> Demand:
    """What each of a section's actors demands, where the cluster can hold them all at once.

    Args:
        name: of the section.
        share: CPUs and GPUs of an actor, where they are not the section's.
        parts: of an actor, which may be on several nodes; the demand is then of one part.

    Raises RayrieverError as `require_room`.
    """
    cpus, gpus = share or (section.cpus_per_actor, section.gpus_per_actor)
    demand = Demand.of(section.placement, cpus / parts, gpus / parts)
    keys = [f"{name}.{key}" for key in ("actors", "cpus_per_actor", "gpus_per_actor", "placement")]
    require_room(keys[0], section.actors * parts, demand, f"Change {', '.join(keys)}")
    return demand


def place_task(what: str, demand: Demand, remedy: str) -> dict[str, Any]:
    """Options of tasks, of which the cluster can hold at least one. Raises RayrieverError as `require_room`."""
    require_room(what, 1, demand, remedy)
    return demand.options()


def require_room(what: str, count: int, demand: Demand, remedy: str) -> None:
    """Raise RayrieverError, with the numbers, unless the cluster can hold so many at the same time.

    Ray would wait for ever instead. Where the cluster has an autoscaler, that one is asked what it may add.

    Args:
        what: so many they are, as in 'llm.actors'.
        remedy: what the user can do about it, as in 'Lower llm.actors'.
    """
    import ray

    nodes = [Node(each["Resources"], each["Labels"]) for each in ray.nodes() if each["Alive"]]
    room = sum(each.room_for(demand) for each in nodes)
    if room >= count or _can_be_added(count, demand):
        return
    kinds = Counter(map(str, nodes))
    raise RayrieverError(
        f"{what} = {count} of {demand}: the Ray cluster has room for {room:g} "
        f"({'; '.join(f'{number} {kind}' for kind, number in kinds.items())}), and can add no more. "
        f"{remedy}, or use a larger cluster (ray.num_cpus, ray.address)."
    )


@dataclass(frozen=True)
class Node:
    """A node of the cluster."""

    resources: Mapping[str, float]
    labels: Mapping[str, str]

    def room_for(self, demand: Demand) -> float:
        """How many of the demand it holds, when nothing else is on it."""
        if not all(self._has(key, selector) for key, selector in demand.labels.items()):
            return 0
        fits = [_times(name, self.resources.get(name, 0.0), amount) for name, amount in demand.bundle().items()]
        return min(fits, default=inf)

    def _has(self, key: str, selector: str) -> bool:
        negated, values = selector.startswith("!"), selector.removeprefix("!")
        listed = values[3:-1].split(",") if values.startswith("in(") else [values]
        return (self.labels.get(key) in listed) is not negated

    def __str__(self) -> str:
        group = f" {self.labels[NODE_GROUP]}" if NODE_GROUP in self.labels else ""
        kinds = [f" ({name.removeprefix(ACCELERATOR)})" for name in self.resources if name.startswith(ACCELERATOR)]
        cpus, gpus, memory = (self.resources.get(name, 0.0) for name in ("CPU", "GPU", "memory"))
        return f"node{group} with {cpus:g} CPUs, {gpus:g} GPUs{''.join(kinds)}, {memory / 1e9:.0f} GB"


def _times(name: str, there: float, wanted: float) -> int:
    """How often the amount goes into what is there. Ray counts in steps of 1/10,000: 0.3 goes into 0.9 three times."""
    if name == "GPU" and wanted < 1:
        return int(there) * floor(1 / wanted + 1e-6)  # nobody gets pieces of two
    return floor(there / wanted + 1e-6)


def _can_be_added(count: int, demand: Demand) -> bool:
    """What the autoscaler says of a placement group of so many, which is taken back; False where there is none.

    Its nodes, if it adds some, are on their way by then. To ask for a group is the only way to have an answer: Ray
    tells nobody which kinds of nodes there may be.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    if not _has_autoscaler():
        return False
    selectors = [dict(demand.labels)] * count if demand.labels else None
    group = placement_group([demand.bundle() or {"CPU": 0.001}] * count, bundle_label_selector=selectors)
    try:
        return _is_granted(group)
    finally:
        remove_placement_group(group)


def _has_autoscaler() -> bool:
    """Of the second version, the only one that knows labels; right after the start of a cluster it has said nothing."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    deadline = time.monotonic() + _ANSWER_WITHIN_S
    while not _status().HasField("autoscaling_state"):
        if not is_autoscaler_v2(fetch_from_server=True) or time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _is_granted(group: Any) -> bool:
    """Whether the autoscaler does not call the pending group infeasible again and again.

    Once is not enough: it reckons with what is free at the moment, such as when actors are just ending.
    """
    asked, seen, refused_since = group.id.hex(), None, None
    deadline = time.monotonic() + _ANSWER_WITHIN_S
    while not group.wait(timeout_seconds=_POLL_S):
        status, now = _status(), time.monotonic()
        wanted, answer = status.cluster_resource_state, status.autoscaling_state
        if seen is None and any(asked in each.details for each in wanted.pending_gang_resource_requests):
            seen = wanted.cluster_resource_state_version
        if seen is not None and answer.last_seen_cluster_resource_state_version >= seen:
            if not any(asked in each.details for each in answer.infeasible_gang_resource_requests):
                return True
            refused_since = refused_since or now
        if refused_since is not None and now - refused_since > _SURE_AFTER_S:
            return False
        if now > deadline:
            raise RayrieverError(f"ray: the cluster's autoscaler has not answered for {_ANSWER_WITHIN_S:.0f} s.")
    return True


def _status() -> Any:
    from ray._private.worker import global_worker
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply()
    reply.ParseFromString(global_worker.gcs_client.get_cluster_status())
    return reply
