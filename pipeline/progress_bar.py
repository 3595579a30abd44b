"""Show a run on a terminal as bars, and in a log as a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from pipeline.artifact import Artifact, Manifest
from pipeline.stage import Stage

# A log that nobody watches gets a line this often.
_LOG_INTERVAL_S = 15.0


class Bars:
    """A `runner.Listener` and the `Progress` of its current stage."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stage = ""
        self._bars = RichProgress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: tuple[str, TaskID] | None = None
        self._logged = time.monotonic()

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def reused(self, artifact: Artifact) -> None:
        self._say(f"{artifact.manifest.stage:<13} reused  {_rows(artifact)}")

    def started(self, stage: Stage) -> Bars:
        self.stage = stage.name
        self._say(f"{stage.name:<13} {stage.summary}")
        return self

    def finished(self, artifact: Artifact) -> None:
        self._end_task()
        manifest = artifact.manifest
        set_aside = f", {manifest.quarantined:,} rows in quarantine" if manifest.quarantined else ""
        self._say(f"{manifest.stage:<13} done in {manifest.seconds:.1f} s  {_rows(artifact)}{set_aside}")
        if manifest.llm and manifest.llm_foreseen:
            self.message(f"LLM, and what the plan said of it: {_against_plan(manifest)}")

    def update(self, description: str, done: int, total: int) -> None:
        name = description.split(", ")[0]  # a speed that follows changes with every call
        if self._task is None or self._task[0] != name:
            self._end_task()
            self._task = (name, self._bars.add_task(escape(description), total=total))
        self._bars.update(self._task[1], completed=done, total=total, description=escape(description))
        if not self.console.is_terminal and (done >= total or time.monotonic() - self._logged > _LOG_INTERVAL_S):
            self._say(f"{self.stage:<13}   {description}: {done:,} of {total:,}")

    def message(self, text: str) -> None:
        self._say(f"{self.stage:<13}   {text}")

    def _end_task(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task[1])
            self._task = None

    def _say(self, text: str) -> None:
        self._logged = time.monotonic()
        self.console.print(escape(text), highlight=False, soft_wrap=True)


def _against_plan(manifest: Manifest) -> str:
    used, planned = manifest.llm, manifest.llm_foreseen
    names = {"requests": "requests", "tokens in": "tokens_in", "tokens out": "tokens_out"}
    return ", ".join(
        f"{used[key]:,} {name} ({planned[key] / used[key] - 1:+.0%})" for name, key in names.items() if used.get(key)
    )


def _rows(artifact: Artifact) -> str:
    tables = artifact.manifest.tables.items()
    return ", ".join(f"{entry.rows:,} {name}" for name, entry in tables if name != "quarantine" and entry.rows)
