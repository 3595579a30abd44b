"""The contract of a stage: what it may read, where it writes, what it must tell beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class StageContext:
    """Everything a running stage sees of the outside."""

    recipe: Recipe
    inputs: Mapping[str, Artifact]  # stage name -> its finished artifact
    out: ArtifactWriter
    workspace: Workspace
    progress: Progress


@dataclass(frozen=True)
class Estimate:
    """What a stage would produce and spend, foreseen without running anything."""

    rows: int
    disk_bytes: int
    llm_requests: int = 0
    llm_tokens_in: int = 0
    llm_tokens_out: int = 0
    note: str = ""
    examples: tuple[str, ...] = ()  # texts of a few such rows, where they can be had
    asked_about: int | None = None  # rows that the LLM may be asked about; None: all

    @property
    def subjects(self) -> int:
        """Rows that the LLM may be asked about."""
        return self.rows if self.asked_about is None else self.asked_about

    @property
    def llm(self) -> dict[str, int]:
        """What it says of the LLM, as a manifest names it."""
        return {"requests": self.llm_requests, "tokens_in": self.llm_tokens_in, "tokens_out": self.llm_tokens_out}


@dataclass(frozen=True)
class Stage:
    """A named step. It is skipped when an artifact with the same key is there."""

    name: str
    summary: str
    inputs: tuple[str, ...]  # stages it reads, where the recipe has them
    sections: tuple[str, ...]  # recipe sections its result depends on
    version: int  # raised when the code computes something else from the same inputs
    run: Callable[[StageContext], None]
    estimate: Callable[[Recipe, Mapping[str, Estimate]], Estimate]  # from the estimates of its inputs
    external: Callable[[Recipe], Any] | None = None  # fingerprint of what it reads from outside the workspace
    observe: Callable[[Artifact], Estimate] | None = None  # what a finished artifact tells the estimates of others
    goes_on: bool = False  # with the parts that an attempt which died has left
    needs: str | None = None  # optional recipe section without which there is no such stage
