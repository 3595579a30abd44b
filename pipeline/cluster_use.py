"""What a stage took of the Ray cluster: nodes, which come and go, and disk for what memory lacked."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import suppress

from pipeline.placement import NODE_GROUP
from pipeline.sampler import Sampler

_INTERVAL_S = 1.0


class ClusterUse(Sampler):
    """Context manager; where Ray does not run, there is nothing to tell afterwards.

    `nodes`: the nodes by group that there were at first, and what they changed to after how many seconds. Those of a
    cluster without groups are in the group "".
    `spilled_mb`: what Ray's object stores wrote to disks for want of memory, in MB.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[tuple[float, dict[str, int]]] = []
        self._spilled: list[float] = []  # since Ray was started: at first, and last
        self._began = time.monotonic()

    @property
    def spilled_mb(self) -> float:
        # Ray sums over the nodes that are there: with one that goes, what it wrote is gone from the sum
        return max(0.0, self._spilled[-1] - self._spilled[0]) if self._spilled else 0.0

    def _sample(self) -> None:
        last = False
        while not last:
            last = self._finished.wait(_INTERVAL_S if self.nodes else 0.1)
            with suppress(Exception):  # half imported, or its head is gone: who counts must not end what is counted
                self._look(also_at_disks=last or not self._spilled)

    def _look(self, also_at_disks: bool) -> None:
        ray = sys.modules.get("ray")  # a stage that needs none must not wait for its import
        if ray is None or not ray.is_initialized():
            return
        counts = dict(Counter(node["Labels"].get(NODE_GROUP, "") for node in ray.nodes() if node["Alive"]))
        if counts and (not self.nodes or counts != self.nodes[-1][1]):
            self.nodes.append((round(time.monotonic() - self._began, 1), counts))
        if also_at_disks:
            self._spilled.append(_spilled_mb())


def _spilled_mb() -> float:
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    spilled: int = get_memory_info_reply(state).store_stats.spilled_bytes_total
    return spilled / 1e6
