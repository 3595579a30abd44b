"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

RecipePath = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value, such as llm.actors=2.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Start = Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Run again from this stage on.")]
Until = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")]


def finished_artifacts_of(recipe: str, overrides: Sequence[str] | None) -> dict[str, Any]:
    from pipeline.recipe import load_recipe
    from pipeline.runner import finished_artifacts
    from pipeline.workspace import Workspace

    loaded = load_recipe(recipe, list(overrides or []))
    return finished_artifacts(loaded, Workspace(loaded.workspace))
