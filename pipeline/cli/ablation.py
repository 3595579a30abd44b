"""The command that compares arms of a recipe."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from pipeline.cli.options import AsJson, Overrides, RecipePath
from pipeline.cli.terminal import err, new_table, out, print_text, readable_errors

app = typer.Typer()


_ABLATION_WIDTH = 160  # columns that the widest table needs


@app.command()
def ablate(
    recipe: RecipePath,
    overrides: Overrides = None,
    arms: Annotated[
        list[str] | None,
        typer.Option("--arm", metavar="NAME", help="Run only this arm; again for more. Others are shown as finished."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train and compare the arms of the recipe's section `ablate`. Exits with 1 when one failed."""
    with readable_errors():
        from pipeline.ablation.run import ablate as run_arms
        from pipeline.progress_bar import Bars
        from pipeline.recipe import load_recipe

        loaded = load_recipe(recipe, overrides)
        with Bars(err) as listener:
            result = run_arms(loaded, listener, lambda text: err.print(escape(text), soft_wrap=True), arms or [])
        if as_json:
            print_text(result.to_json())
        else:
            show_ablation(result)
            out.print(f"Report: {loaded.workspace}/ablation.md", highlight=False, soft_wrap=True)
        if result.failed:
            raise typer.Exit(1)


def show_ablation(result: Any) -> None:
    from pipeline.ablation import markdown

    for split in result.splits:
        table = new_table(
            *map(escape, markdown.header(result, split)), title=f"{split.split}: {split.queries:,} queries"
        )
        for row in markdown.cells(result, split, intervals=False):
            table.add_row(*map(escape, row))
        # A wrapped line can be read; a figure cut to its first digits cannot.
        Console(file=out.file, width=max(out.width, _ABLATION_WIDTH)).print(table)
    for line in (*markdown.notes(result), markdown.choice(result)):
        out.print(escape(line), highlight=False, soft_wrap=True)
    for line in markdown.failures(result):
        err.print(f"[red]failed:[/] {escape(line)}", highlight=False, soft_wrap=True)
