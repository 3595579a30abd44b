"""Run the stages of a recipe in order: reuse what is finished, do the rest, commit each before the next."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, Protocol

from pipeline import __version__
from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.cluster_use import ClusterUse
from pipeline.digest import digest
from pipeline.errors import RayrieverError, root_cause
from pipeline.evaluation.stage import last_evaluation, publish
from pipeline.lease import Lease, held
from pipeline.memory import PeakMemory
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.stage import Estimate, Stage, StageContext
from pipeline.stages import relevant_section, stage_key, stages_of
from pipeline.workspace import Workspace, explained_write_errors

Action = Literal["reuse", "run"]


class Listener(Protocol):
    """Hears what a run does; the command line shows it."""

    def reused(self, artifact: Artifact) -> None: ...

    def started(self, stage: Stage) -> Progress: ...

    def finished(self, artifact: Artifact) -> None: ...


@dataclass(frozen=True)
class PlannedStage:
    """What a run would do with a stage, and what the stage would spend if it runs."""

    stage: Stage
    key: str
    present: Artifact | None  # the finished artifact that is reused; None where the stage runs
    section: dict[str, Any]
    recipe: Recipe
    inputs: Mapping[str, PlannedStage]
    forced: bool  # nothing that is there of it is used

    @cached_property
    def estimate(self) -> Estimate:
        """Made when somebody looks: it may open a tokenizer and read stored answers."""
        if self.present is not None and self.stage.observe is not None:
            return self.stage.observe(self.present)
        return self.stage.estimate(self.recipe, {name: each.estimate for name, each in self.inputs.items()})

    @property
    def action(self) -> Action:
        return "run" if self.present is None else "reuse"


def plan(
    recipe: Recipe, workspace: Workspace, start: str | None = None, until: str | None = None
) -> list[PlannedStage]:
    """The stages up to `until` in order. A stage is reused when it is finished under its key, unless it is `start`
    or comes after it. Reads metadata and samples; runs nothing.
    """
    stages = stages_of(recipe)
    _check_names([stage.name for stage in stages], start, until)
    planned: dict[str, PlannedStage] = {}
    forced = False
    for stage in stages:
        forced = forced or stage.name == start
        section = relevant_section(stage, recipe)
        key = stage_key(stage, section, {name: planned[name].key for name in stage.inputs})
        present = None if forced else Artifact.find(workspace, stage.name, key)
        if present is not None and present.manifest.inputs != _identities(planned[n].present for n in stage.inputs):
            present = None  # made from an artifact that a forced rerun has replaced, or will
        inputs = {name: planned[name] for name in stage.inputs}
        planned[stage.name] = PlannedStage(stage, key, present, section, recipe, inputs, forced)
        if stage.name == until:
            break
    return list(planned.values())


def run(recipe: Recipe, listener: Listener, start: str | None = None, until: str | None = None) -> dict[str, Artifact]:
    """Bring every stage up to `until` to its finished state; returns the artifacts by stage name.

    Raises RayrieverError with one readable message; what was finished before stays and is reused next time.
    """
    workspace = Workspace(recipe.workspace)
    workspace.check_writable()
    finished: dict[str, Artifact] = {}
    with _readable_errors(workspace), held(workspace) as lease:
        steps = plan(recipe, workspace, start, until)
        for step in steps:
            if step.present is None:
                _ = step.estimate  # before anything is asked: afterwards it would know the answers
        for step in steps:
            finished[step.stage.name] = _bring_about(step, recipe, workspace, lease, finished, listener)
        if (evaluated := last_evaluation(finished)) is not None:
            # On every run: under these paths the report is that of the recipe that was run last.
            publish(evaluated)
    return finished


def _identities(artifacts: Iterable[Artifact | None]) -> dict[str, str]:
    return {artifact.manifest.stage: artifact.manifest.identity for artifact in artifacts if artifact is not None}


def _bring_about(
    step: PlannedStage,
    recipe: Recipe,
    workspace: Workspace,
    lease: Lease,
    finished: Mapping[str, Artifact],
    listener: Listener,
) -> Artifact:
    if step.present is not None:
        listener.reused(step.present)
        return step.present
    lease.check()
    progress = listener.started(step.stage)
    inputs = {name: finished[name] for name in step.stage.inputs}
    identities = _identities(inputs.values())
    made_of = digest(identities)[:8] if step.stage.goes_on and not step.forced else None
    out = ArtifactWriter(workspace, step.stage.name, step.key, made_of)
    began = time.monotonic()
    with PeakMemory() as memory, ClusterUse() as used:
        step.stage.run(StageContext(recipe, inputs, out, workspace, progress))
    lease.check()
    artifact = out.commit(
        inputs=identities,
        section=step.section,
        code_version=__version__,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 2),
        peak_memory_mb=round(memory.peak_mb, 1),
        spilled_mb=round(used.spilled_mb, 1),
        nodes=used.nodes,
        llm_foreseen=step.estimate.llm if out.llm else {},
    )
    listener.finished(artifact)
    return artifact


def finished_artifacts(recipe: Recipe, workspace: Workspace) -> dict[str, Artifact]:
    """The finished stages of this recipe as it stands; a stage that was never run under these values is absent."""
    return {step.stage.name: step.present for step in plan(recipe, workspace) if step.present is not None}


def _check_names(known: Sequence[str], *names: str | None) -> None:
    for name in names:
        if name is not None and name not in known:
            raise RayrieverError(f"the recipe has no stage {name!r}; its stages are {', '.join(known)}.")


@contextmanager
def _readable_errors(workspace: Workspace) -> Iterator[None]:
    """One RayrieverError for what went wrong on a worker or with the disk; bugs keep their traceback."""
    try:
        with explained_write_errors(workspace.uri):
            try:
                yield
            except Exception as error:
                raise root_cause(error) from error
    except RayrieverError:
        raise
    except MemoryError as error:
        raise RayrieverError("out of memory: lower batch sizes or actors, or use a larger machine.") from error
