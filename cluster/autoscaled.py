"""A Ray cluster on this machine that grows and shrinks: Ray's autoscaler, and nodes that are processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

from cluster.local import LocalCluster
from pipeline.placement import NODE_GROUP

# What Ray's provider of nodes on one machine calls the head, and numbers the others from
_HEAD_ID, _HEAD_TYPE = "f" * 51 + "00000", "ray.head.default"


@dataclass(frozen=True)
class Group:
    """A kind of node: what each has, `memory` too where work reserves it, and how many there may be."""

    resources: Mapping[str, float]
    most: int
    labels: Mapping[str, str] = field(default_factory=dict)


class LocalProvider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Ray's own, whose nodes could not say how much memory they have."""

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: Mapping[str, float], labels: Any
    ) -> None:
        detected = {name: amount for name, amount in resources.items() if name != "memory"}
        super()._create_node_with_resources_and_labels(node_config, tags, count, detected, labels)


class AutoscaledCluster(LocalCluster):
    """A head without work, and nodes that come when work asks for them and go when they are idle.

    Args:
        groups: kinds of nodes by name, which is also their label `ray.io/node-group`.
        idle_s: seconds without work after which a node goes.
        environment: variables of all nodes, and of what runs on them.

    Raises RayrieverError as `LocalCluster`.
    """

    def __init__(
        self, groups: Mapping[str, Group], idle_s: float = 60.0, environment: Mapping[str, str] | None = None
    ) -> None:
        scaling = {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        super().__init__([], scaling | dict(environment or {}))
        self._groups, self._idle_s = groups, idle_s

    def _of_head(self) -> Sequence[str]:
        path = Path(self.folder.name, "cluster.yaml")
        path.write_text(yaml.safe_dump(self._configuration()))
        return (f"--autoscaling-config={path}",)

    def _environment_of(self, name: str) -> dict[str, str]:
        own = {"RAY_CLOUD_INSTANCE_ID": _HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID}
        return super()._environment_of(name) | own | {"RAY_NODE_TYPE_NAME": name}

    def _configuration(self) -> dict[str, Any]:
        types = {
            name: {
                "resources": dict(group.resources),
                "labels": {NODE_GROUP: name, **group.labels},
                "min_workers": 0,
                "max_workers": group.most,
                "node_config": {},
            }
            for name, group in self._groups.items()
        }
        head = {"resources": {"CPU": 0}, "min_workers": 0, "max_workers": 0, "node_config": {}}
        return {
            "cluster_name": "local",
            "max_workers": sum(group.most for group in self._groups.values()),
            "idle_timeout_minutes": self._idle_s / 60,
            "provider": {
                "type": "external",
                "module": f"{__name__}.{LocalProvider.__name__}",
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "launch_multiple": True,
                "head_node_id": _HEAD_ID,
                "gcs_address": self.address,
            },
            "auth": {"ssh_user": "nobody"},
            # Nobody logs in to these nodes
            **{f"{who}setup_commands": [] for who in ("", "head_", "worker_")},
            **{f"{who}_start_ray_commands": [] for who in ("head", "worker")},
            "initialization_commands": [],
            "file_mounts": {},
            "cluster_synced_files": [],
            "available_node_types": {_HEAD_TYPE: head, **types},
            "head_node_type": _HEAD_TYPE,
        }
