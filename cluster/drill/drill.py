"""One quiet run, then each case on its own: what came of it, and whether its artifact is that of the quiet run."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType

from pyarrow import fs

from cluster.drill.cases import CASES, STORED_WITHIN_S, Case, Scene, happening
from cluster.drill.compare import differences
from cluster.drill.project import RECIPE, write_project
from cluster.drill.store import CREDENTIALS, Store
from cluster.drill.writer import Writer
from cluster.jobs import ENDED, Submission
from cluster.local import LocalCluster
from pipeline.artifact import Artifact
from pipeline.errors import RayrieverError
from pipeline.recipe import load_recipe
from pipeline.stages import stages_of
from pipeline.workspace import Workspace

_UPLOADING = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
_RUN_WITHIN_S = 600.0
_STOPS_WITHIN_S = 60.0
_DISK_MB = 24
_NODES = (2, 2)  # logical CPUs


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Args:
        failed: why it came to no end; then nothing but its name is known.
        ended: how the run did that it happened to.
        said: by that run, where it failed.
        submissions: until it was done.
        answers: of the LLM, all in all.
        again: those that had been given before; it had been in flight when it happened, or had just arrived.
        stored_again: of them, those that had arrived so early that they were stored.
        differences: of the artifact from the quiet run's.
        seconds: from the first submission to the end of the last.
        skipped: why the case was not tried; then it has no outcome.
        expected: whether it ended as the case says, and said what the case says.
    """

    case: str
    stage: str
    summary: str
    ended: str = ""
    said: str = ""
    submissions: int = 0
    answers: int = 0
    again: int = 0
    stored_again: int = 0
    differences: tuple[str, ...] = ()
    seconds: float = 0.0
    skipped: str = ""
    failed: str = ""
    expected: bool = True

    @property
    def passed(self) -> bool:
        """As it should be: the same artifact, nobody's help where none is needed, and no stored answer asked again."""
        return not (self.skipped or self.failed) and self.expected and not self.differences and not self.stored_again


def chosen(names: Sequence[str]) -> list[Case]:
    """Those of these names; all where there are none. Raises RayrieverError for a name that no case has."""
    known = {case.name: case for case in CASES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RayrieverError(f"drill: no case {unknown[0]!r}; there are {', '.join(known)}.")
    return [known[name] for name in names] or list(CASES)


class Drill:
    """Context manager: cluster, LLM and bucket on this machine, and a project in the folder.

    Args:
        folder: empty; of a case that fails, both artifacts are copied there.

    Raises RayrieverError where something of it cannot be started.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._project = folder.resolve(), folder.resolve() / "project"
        self._open = ExitStack()

    def __enter__(self) -> Drill:
        with ExitStack() as opening:
            opening.enter_context(_variables(CREDENTIALS))
            self._writer = opening.enter_context(Writer())
            self._store = opening.enter_context(Store())
            self._quiet = self._store.uri("quiet")
            environment = {**CREDENTIALS, "OPENAI_API_KEY": "drill"}
            self._cluster = opening.enter_context(LocalCluster(_NODES, environment))
            write_project(self._project, self._writer.url)
            self._jobs = self._cluster.jobs()
            for name in _UPLOADING:
                logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every job
            self._stages = [stage.name for stage in stages_of(load_recipe(self._project / RECIPE))]
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def run_quietly(self, until: str | None = None) -> None:
        """What the cases are compared with, and begin from. Raises RayrieverError where it fails."""
        job_id = self._submit(self._quiet, until)
        if self._jobs.wait(job_id, _RUN_WITHIN_S).status != "SUCCEEDED":
            raise RayrieverError(f"drill: the quiet run failed: {self._said(job_id)}")

    def perform(self, case: Case) -> Outcome:
        """Let it happen to a run that has everything before the case's stage from the quiet run."""
        outcome = Outcome(case.name, case.stage, case.summary)
        with ExitStack() as until_over:
            workspace = self._store.uri(case.name)
            if case.own_disk:
                disk = self._folder / f"disk-{case.name}"
                if refused := until_over.enter_context(_small_disk(disk)):
                    return replace(outcome, skipped=refused)
                workspace = str(disk)
            try:
                self._copy(self._quiet, workspace, self._before(case.stage))
                outcome = self._perform(case, workspace, outcome)
            except (RayrieverError, OSError) as error:
                outcome = replace(outcome, failed=str(error))
            # What follows must not lose what is known of this case, nor of those before
            try:
                self._stop_all()
                if not outcome.passed:
                    self._keep(case, workspace)
            except (RayrieverError, OSError) as error:
                outcome = replace(outcome, failed=f"{outcome.failed} It was not cleared away: {error}".strip())
            return outcome

    def _stop_all(self) -> None:
        """A run that goes on would share the nodes with the next case's, and write what is being copied."""
        for job in self._jobs.all():
            if job.status not in ENDED:
                self._jobs.stop(job.id)
                self._jobs.wait(job.id, _STOPS_WITHIN_S)

    def _perform(self, case: Case, workspace: str, outcome: Outcome) -> Outcome:
        self._writer.answered.clear()
        began, since = time.monotonic(), time.time()
        job_id, submissions, said = self._submit(workspace, case.stage), 1, ""
        ended = partial(self._has_ended, job_id)
        scene = Scene(case.stage, workspace, since, self._cluster, self._writer, self._store, ended)
        with happening(case, scene):
            happened = time.monotonic()
            first = self._jobs.wait(job_id, _RUN_WITHIN_S).status
        if first != "SUCCEEDED":
            said, submissions = self._said(job_id), 2
            job_id = self._submit(workspace, case.stage)
            if self._jobs.wait(job_id, _RUN_WITHIN_S).status != "SUCCEEDED":
                raise RayrieverError(f"submitted again, it failed: {self._said(job_id)}")
        as_told = case.says in said if case.says else not said
        return replace(
            outcome,
            ended=first,
            said=said,
            submissions=submissions,
            answers=self._writer.answers(),
            again=self._writer.again(),
            stored_again=self._writer.again(until=happened - STORED_WITHIN_S),
            differences=self._differences(workspace, case.stage),
            seconds=round(time.monotonic() - began, 1),
            expected=(first == "SUCCEEDED") is case.survives and as_told,
        )

    def _differences(self, workspace: str, stage: str) -> tuple[str, ...]:
        """From the quiet run; a stage before that was run again has had what should have happened to this one."""
        opened = Workspace(workspace)
        again = [each for each in self._before(stage) if len(opened.list_folders("stages", each)) != 1]
        found = differences(self._artifact(self._quiet, stage), self._artifact(workspace, stage))
        return (*(f"stage {each}, run again" for each in again), *found)

    def _submit(self, workspace: str, until: str | None) -> str:
        overrides = [f"workspace={workspace}"]
        return self._jobs.submit(
            Submission(self._project / RECIPE, overrides, self._project, until=until, driver_cpus=0)
        )

    def _has_ended(self, job_id: str) -> bool:
        return self._jobs.get(job_id).status in ENDED

    def _said(self, job_id: str) -> str:
        """The last line of its log: the error, where it had time to say one."""
        lines = [line.strip() for line in self._jobs.logs(job_id).splitlines() if line.strip()]
        errors = [place for place, line in enumerate(lines) if line.startswith("error: ")]
        return re.sub(r"\s+", " ", " ".join(lines[errors[-1] :])) if errors else ""

    def _before(self, stage: str) -> list[str]:
        return self._stages[: self._stages.index(stage)]

    def _keep(self, case: Case, workspace: str) -> None:
        """The stage's artifacts, to be looked at: bucket and small disk go with the drill."""
        for name, each in (("quiet", self._quiet), ("after", workspace)):
            self._copy(each, str(self._folder / case.name / name), [case.stage])

    def _copy(self, source_uri: str, target_uri: str, stages: Sequence[str]) -> None:
        source, target = Workspace(source_uri), Workspace(target_uri)
        for each in stages:
            if not source.list_folders("stages", each):
                continue
            folder = target.path("stages", each)
            target.filesystem.create_dir(folder, recursive=True)
            fs.copy_files(
                source.path("stages", each),
                folder,
                source_filesystem=source.filesystem,
                destination_filesystem=target.filesystem,
            )

    def _artifact(self, workspace: str, stage: str) -> Artifact:
        opened = Workspace(workspace)
        (key,) = opened.list_folders("stages", stage)
        artifact = Artifact.find(opened, stage, key)
        if artifact is None:
            raise RayrieverError(f"{workspace} has no finished {stage}.")
        return artifact


@contextmanager
def _small_disk(folder: Path) -> Iterator[str]:
    """A disk of a few megabytes mounted at the folder; yields why not, where it cannot be."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    except OSError as error:
        yield f"no disk can be mounted: {error}"
        return
    if mounted.returncode:
        yield f"no disk can be mounted: {mounted.stderr.strip()}"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)  # noqa: S603, S607
        folder.rmdir()


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    kept = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
