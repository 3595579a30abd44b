"""What a drill has happen to a run, when, and how it is mended."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from cluster.drill.store import Store
from cluster.drill.writer import Writer
from cluster.local import LocalCluster, Node
from pipeline.artifact import Artifact
from pipeline.errors import RayrieverError
from pipeline.workspace import Workspace

_WITHIN_S = 300.0
_POLL_S = 0.02
STORED_WITHIN_S = 2.0  # answers that arrived so long ago are stored, on a busy machine, too
_ANSWERS = 5
_DELAYED_S = 15.0
_ASKING, _TRAINING = ("queries", "synthesis", "preferences", "permutations"), ("distill", "align", "rerank")
# Titles of processes: all but Ray's own, which are on any node
_WORKS = re.compile(r"ray::(?!IDLE|_StatsActor|AutoscalingRequester)")
_ASKS = re.compile(r"ray::.*ApiActor")
_SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's list of checkpoints
_FILLER = "filler"


class TooLate(RayrieverError):
    """The run had ended before anything could happen to it."""


@dataclass(frozen=True)
class Scene:
    """A run, and everything that can go wrong around it.

    Args:
        stage: that runs; those before it are finished.
        workspace: a URI, or the path of a folder on a disk of its own.
        since: when it was submitted, seconds since the epoch.
        has_ended: whether the run has.
    """

    stage: str
    workspace: str
    since: float
    cluster: LocalCluster
    writer: Writer
    store: Store
    has_ended: Callable[[], bool]

    def wait_for(self, moment: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _WITHIN_S
        while not moment():
            if self.has_ended() or time.monotonic() > deadline:
                raise TooLate(f"{self.stage} was over before anything could happen to it.")
            time.sleep(_POLL_S)

    def wait_until_well_under_way(self) -> Node:
        """Until answers are stored, a training has a checkpoint, or, in other stages, workers have begun.

        Returns the node, not the head, on which the stage's actors, tasks or workers of a training are.
        """
        if self.stage in _ASKING:
            self.wait_for_answers()
        if self.stage in _TRAINING:
            self.wait_for(self._has_checkpoint)
        found: list[Node] = []

        def there() -> bool:
            found[:] = [node for node in self.cluster.nodes[1:] if node.is_alive and self.workers(node)]
            return bool(found)

        self.wait_for(there)
        return found[0]

    def workers(self, node: Node) -> list[psutil.Process]:
        """Processes of a node at work for the stage; where it asks an LLM, those that do."""
        wanted = _ASKS if self.stage in _ASKING else _WORKS
        return [each for each in node.processes() if _began(each) > self.since and wanted.match(_title(each))]

    def wait_for_answers(self) -> None:
        """Until some are stored."""
        self.wait_for(lambda: self.writer.answers(until=time.monotonic() - STORED_WITHIN_S) >= _ANSWERS)

    def require_unfinished(self) -> None:
        """Raise TooLate where the stage had been done, and nothing of it was left to be lost."""
        workspace = Workspace(self.workspace)
        if any(Artifact.find(workspace, self.stage, key) for key in workspace.list_folders("stages", self.stage)):
            raise TooLate(f"{self.stage} was finished when it happened.")

    def _has_checkpoint(self) -> bool:
        workspace = Workspace(self.workspace)
        return any(info.base_name == _SNAPSHOT for info in workspace.list_file_infos("training"))


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
        survives: whether the run goes on by itself; else it ends, and is submitted again.
        says: what an error that it ends with has in it; empty where it has no time to say one.
        own_disk: the workspace is on a small disk of its own, not in the bucket.
    """

    name: str
    stage: str
    summary: str
    mishap: Mishap
    survives: bool
    says: str = ""
    own_disk: bool = False


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def _began(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.Error:
        return 0.0


def _node_dies(scene: Scene) -> Iterator[None]:
    scene.wait_until_well_under_way().kill()
    try:
        scene.require_unfinished()
        yield
    finally:
        scene.cluster.add_node(2)


def _driver_dies(scene: Scene) -> Iterator[None]:
    scene.wait_for_answers()
    # The job's shell has the same words in its command line; whoever of them dies first, all go
    command = re.compile(r"python\S* -m pipeline\.cli run")
    drivers = [each for each in scene.cluster.nodes[0].processes() if command.search(_title(each))]
    if not drivers:
        raise TooLate(f"{scene.stage} has no driver on the head any more.")
    _signal(drivers, signal.SIGKILL)
    yield


def _llm_is_cut(scene: Scene) -> Iterator[None]:
    scene.wait_for_answers()
    scene.writer.is_cut = True
    try:
        yield
    finally:
        scene.writer.is_cut = False


def _disk_is_full(scene: Scene) -> Iterator[None]:
    scene.wait_for_answers()
    filler = Path(scene.workspace, _FILLER)
    with filler.open("wb", buffering=0) as out, suppress(OSError):  # the error is the end of the disk
        while True:
            out.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


def _credentials_expire(scene: Scene) -> Iterator[None]:
    scene.wait_until_well_under_way()
    scene.store.is_expired = True
    try:
        yield
    finally:
        scene.store.is_expired = False


def _workers_stand_still(scene: Scene) -> Iterator[None]:
    """As on a machine that swaps or is short of its share; the node itself still says that it lives."""
    delayed = scene.workers(scene.wait_until_well_under_way())
    _signal(delayed, signal.SIGSTOP)
    try:
        time.sleep(_DELAYED_S)
        scene.require_unfinished()
    finally:
        _signal(delayed, signal.SIGCONT)
    yield


def _signal(processes: Iterable[psutil.Process], which: signal.Signals) -> None:
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(which)


@contextmanager
def happening(case: Case, scene: Scene) -> Iterator[None]:
    yield from case.mishap(scene)


_WITH_WORKERS = (
    "words",
    "queries",
    "synthesis",
    "encode_base",
    "index_base",
    "mine",
    "teach",
    "distill",
    "encode_tuned",
    "index_tuned",
    "preferences",
    "align",
    "encode_aligned",
    "index_aligned",
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
    Case(
        "llm",
        "synthesis",
        f"the LLM's server is gone while {_LLM}",
        _llm_is_cut,
        survives=False,
        says="the server is down",
    ),
    Case(
        "disk",
        "synthesis",
        f"the disk is full while {_LLM}",
        _disk_is_full,
        survives=False,
        says="the disk is full",
        own_disk=True,
    ),
    *(
        Case(name, stage, what, _credentials_expire, survives=False, says="the object store refuses the credentials")
        for name, stage, what in (
            ("credentials", "synthesis", f"the bucket's credentials expire while {_LLM}"),
            ("credentials-encode", "encode_base", "the bucket's credentials expire"),
        )
    ),
    Case("delay", "distill", f"workers stand still for {_DELAYED_S:.0f} s", _workers_stand_still, survives=True),
)
