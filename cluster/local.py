"""A Ray cluster of several nodes on this machine, for drills: real nodes, whose processes are killed like machines."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from cluster.jobs import Jobs
from pipeline.errors import RayrieverError

_STARTED_WITHIN_S = 180.0
_OBJECT_STORE_BYTES = 150_000_000
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node whose processes are gone is seen to be dead after seconds, not half a minute
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class Node:
    """A node's processes."""

    name: str
    process: subprocess.Popen[bytes]

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """The node's own and those of what runs on it; none where it is gone."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """All its processes at once, workers and actors too, as when a machine loses its power."""
        for each in self.processes():
            with suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGKILL)
        self.process.wait()


class LocalCluster:
    """Head and nodes, started on entering and killed on leaving; never joins or stops another Ray of this machine.

    Each node has an address and a folder of its own, all reached from this machine only. Ray's agents take the head
    for theirs where nodes share a machine, so that the logs of a job can be read only where its driver is on the head.

    Args:
        cpus: logical CPUs of each node but the head, which has none.
        environment: variables of all nodes, and of what runs on them.

    Raises RayrieverError, with the last lines that it printed, where a node does not start.
    """

    def __init__(self, cpus: Sequence[int], environment: Mapping[str, str] | None = None) -> None:
        self._cpus = cpus
        self.token = secrets.token_hex(32)
        #: of what talks to the cluster from outside, too
        self.environment = os.environ | _ENVIRONMENT | {"RAY_AUTH_TOKEN": self.token} | dict(environment or {})
        self.environment.pop("RAY_ADDRESS", None)
        # a job says `python`
        self.environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), self.environment["PATH"]])
        # Unix sockets below it may have 107 characters
        self.folder = tempfile.TemporaryDirectory(prefix="rr", dir="/tmp", ignore_cleanup_errors=True)
        # All of 127.0.0.0/8 is this machine: clusters beside each other do not share addresses
        self._network = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(255)}"
        self._port, self._dashboard = _free_port(), _free_port()
        self.nodes: list[Node] = []

    @property
    def address(self) -> str:
        return f"{self._network}.1:{self._port}"

    @property
    def jobs_address(self) -> str:
        return f"http://127.0.0.1:{self._dashboard}"

    def jobs(self) -> Jobs:
        return Jobs(self.jobs_address, self.token)

    def __enter__(self) -> LocalCluster:
        try:
            head = ("--head", f"--port={self._port}", f"--dashboard-port={self._dashboard}", "--include-dashboard=true")
            client = f"--ray-client-server-port={_free_port()}"
            self._start("head", *head, client, "--num-cpus=0", *self._of_head())
            for cpus in self._cpus:
                self.add_node(cpus)
            self._await_jobs()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def add_node(self, cpus: int, labels: Mapping[str, str] | None = None) -> Node:
        """Returns when the node has joined."""
        labelled = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        options = (f"--address={self.address}", f"--num-cpus={cpus}", *([f"--labels={labelled}"] if labelled else ()))
        return self._start(f"node-{len(self.nodes)}", *options)

    def _environment_of(self, name: str) -> dict[str, str]:
        """Variables of a node's processes."""
        return self.environment

    def _of_head(self) -> Sequence[str]:
        """Further options of the head."""
        return ()

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        self.folder.cleanup()

    def _start(self, name: str, *arguments: str) -> Node:
        log = Path(self.folder.name, f"{name}.log")
        # Of its own: what a job needs is unpacked there, and removed when this node needs it no more
        own = f"--temp-dir={self.folder.name}/{name}"
        ports = [f"--{what}={_free_port()}" for what in ("dashboard-agent-listen-port", "metrics-export-port")]
        ip = f"--node-ip-address={self._network}.{len(self.nodes) + 1}"
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", ip),
            *("--disable-usage-stats", f"--object-store-memory={_OBJECT_STORE_BYTES}", own, *ports, *arguments),
        ]
        with log.open("wb") as written:
            process = subprocess.Popen(  # noqa: S603
                command, stdout=written, stderr=written, env=self._environment_of(name), start_new_session=True
            )
        node = Node(name, process)
        self.nodes.append(node)
        deadline = time.monotonic() + _STARTED_WITHIN_S
        while b"Ray runtime started" not in (text := log.read_bytes()):
            if not node.is_alive or time.monotonic() > deadline:
                raise RayrieverError(f"{name} did not start:\n{text.decode(errors='replace')[-2000:]}")
            time.sleep(0.1)
        return node

    def _await_jobs(self) -> None:
        deadline = time.monotonic() + _STARTED_WITHIN_S
        while True:
            try:
                self.jobs().all()
                return
            except RayrieverError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
