"""What a drill has happen to a run, when, and how it is mended."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from cluster.drill.store import Store
from cluster.drill.writer import Writer
from cluster.local import LocalCluster, Node
from pipeline.errors import RayrieverError

_WITHIN_S = 300.0
_POLL_S = 0.02
STORED_WITHIN_S = 2.0  # answers that arrived so long ago are stored, on a busy machine, too
_ANSWERS = 5
_DELAYED_S = 15.0
# Ray's own, which are on any node
_NO_WORK = ("ray::IDLE", "ray::_StatsActor", "ray::AutoscalingRequester")
_FILLER = "filler"


class TooLate(RayrieverError):
    """The run had ended before anything could happen to it."""


@dataclass(frozen=True)
class Scene:
    """A run, and everything that can go wrong around it.

    Args:
        stage: that runs; those before it are finished.
        workspace: a URI, or the path of a folder on a disk of its own.
        has_ended: whether the run has.
    """

    stage: str
    workspace: str
    cluster: LocalCluster
    writer: Writer
    store: Store
    has_ended: Callable[[], bool]

    def wait_for(self, moment: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _WITHIN_S
        while not moment():
            if self.has_ended() or time.monotonic() > deadline:
                raise TooLate(f"drill: {self.stage} was over before anything could happen to it.")
            time.sleep(_POLL_S)

    def wait_for_node_at_work(self) -> Node:
        """The first node but the head on which the stage has an actor, a task or a worker of a training."""
        found: list[Node] = []

        def there() -> bool:
            found[:] = [node for node in self.cluster.nodes[1:] if node.is_alive and workers(node)]
            return bool(found)

        self.wait_for(there)
        return found[0]

    def wait_for_answers(self) -> None:
        """Until some are stored."""
        self.wait_for(lambda: self.writer.answers(until=time.monotonic() - STORED_WITHIN_S) >= _ANSWERS)


class Mishap(Protocol):
    """Context manager: on entering it waits for its moment and happens, on leaving it is mended.

    Raises TooLate where the run is over before.
    """

    def __call__(self, scene: Scene) -> Iterator[None]: ...


@dataclass(frozen=True)
class Case:
    """Something that happens in a stage.

    Args:
        summary: of what happens.
        survives: whether the run goes on by itself; else it ends with an error, and is submitted again.
        own_disk: the workspace is on a small disk of its own, not in the bucket.
    """

    name: str
    stage: str
    summary: str
    mishap: Mishap
    survives: bool
    own_disk: bool = False


def workers(node: Node) -> list[psutil.Process]:
    """Processes of a node at work for a stage."""
    return [each for each in node.processes() if _title(each).startswith("ray::") and not _is_rays_own(each)]


def _is_rays_own(process: psutil.Process) -> bool:
    return _title(process).startswith(_NO_WORK)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def _node_dies(scene: Scene) -> Iterator[None]:
    if scene.stage in ("queries", "synthesis", "preferences", "permutations"):
        scene.wait_for_answers()
    scene.wait_for_node_at_work().kill()
    yield
    scene.cluster.add_node(2)


def _driver_dies(scene: Scene) -> Iterator[None]:
    scene.wait_for_answers()
    # The job's shell has the same words in its command line; whoever of them dies first, all go
    command = re.compile(r"python\S* -m pipeline\.cli run")
    drivers = [each for each in scene.cluster.nodes[0].processes() if command.search(_title(each))]
    if not drivers:
        raise TooLate(f"drill: {scene.stage} has no driver on the head any more.")
    for each in drivers:
        each.send_signal(signal.SIGKILL)
    yield


def _llm_is_cut(scene: Scene) -> Iterator[None]:
    scene.wait_for_answers()
    scene.writer.is_cut = True
    yield
    scene.writer.is_cut = False


def _disk_is_full(scene: Scene) -> Iterator[None]:
    scene.wait_for_answers()
    filler = Path(scene.workspace, _FILLER)
    with filler.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(4096))
        except OSError:  # that was the last of it
            pass
    yield
    filler.unlink()


def _credentials_expire(scene: Scene) -> Iterator[None]:
    if scene.stage == "synthesis":
        scene.wait_for_answers()
    else:
        scene.wait_for_node_at_work()
    scene.store.is_expired = True
    yield
    scene.store.is_expired = False


def _worker_is_delayed(scene: Scene) -> Iterator[None]:
    """Stopped, as a machine that swaps or is short of its share; the node itself still says that it lives."""
    delayed = workers(scene.wait_for_node_at_work())
    for each in delayed:
        os.kill(each.pid, signal.SIGSTOP)
    time.sleep(_DELAYED_S)
    for each in delayed:
        os.kill(each.pid, signal.SIGCONT)
    yield


@contextmanager
def happening(case: Case, scene: Scene) -> Iterator[None]:
    yield from case.mishap(scene)


_WITH_WORKERS = (
    "queries",
    "synthesis",
    "encode_base",
    "index_base",
    "mine",
    "distill",
    "encode_tuned",
    "index_tuned",
    "preferences",
    "align",
    "candidates",
    "permutations",
    "rerank",
    "evaluate",
    "evaluate_reranker",
)
_LLM = "answers of the LLM are under way"
CASES = (
    *(
        Case(f"node-{stage}", stage, "a node with its actors and workers is killed", _node_dies, survives=True)
        for stage in _WITH_WORKERS
    ),
    Case("driver", "synthesis", f"the run's own process is killed while {_LLM}", _driver_dies, survives=False),
    Case("llm", "synthesis", f"the LLM's server is gone while {_LLM}", _llm_is_cut, survives=False),
    Case("disk", "synthesis", f"the disk is full while {_LLM}", _disk_is_full, False, True),
    Case("credentials", "synthesis", f"the bucket's credentials expire while {_LLM}", _credentials_expire, False),
    Case("credentials-encode", "encode_base", "the bucket's credentials expire", _credentials_expire, False),
    Case("delay", "distill", f"workers stand still for {_DELAYED_S:.0f} s", _worker_is_delayed, survives=True),
)
