"""Commands about what a recipe can say."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from pipeline.cli.options import AsJson
from pipeline.cli.terminal import new_table, out, print_json, readable_errors
from pipeline.errors import RayrieverError

app = typer.Typer()


@app.command()
def keys(
    section: Annotated[str | None, typer.Argument(metavar="[SECTION]", help="One section, such as llm.")] = None,
    as_json: AsJson = False,
) -> None:
    """List every recipe key with its default and what it means."""
    with readable_errors():
        from pipeline.recipe import describe

        rows = [key for key in describe() if section is None or key.name.split(".")[0] == section]
        if not rows:
            raise RayrieverError(f"keys: there is no section {section!r}.")
        if as_json:
            print_json([asdict(key) for key in rows])
            return
        table = new_table("Key", "Default", "Meaning")
        for key in rows:
            table.add_row(key.name, escape(key.default), escape(key.description))
        out.print(table)
