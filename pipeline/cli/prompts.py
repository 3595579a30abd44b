"""Commands that show what the LLM is asked."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape

from pipeline.cli.options import AsJson, Overrides, RecipePath
from pipeline.cli.terminal import new_table, out, print_json, print_text, readable_errors

app = typer.Typer(no_args_is_help=True, help="Show what the LLM is asked.")

Task = Annotated[str, typer.Argument(metavar="TASK", help="One of `rayriever prompt list`.")]
MaybeRecipe = Annotated[
    str | None, typer.Option("--recipe", metavar="RECIPE", help="With the prompt files of this recipe.")
]


@app.command("list")
def list_prompts(recipe: MaybeRecipe = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """List the tasks, their parsers and sampling defaults."""
    with readable_errors():
        from pipeline.llm.prompts import TEMPLATES, load, tasks

        section = _section(recipe, overrides)
        prompts = [load(task, section) for task in tasks()]
        if as_json:
            print_json([{**p.about.model_dump(), "values": sorted(p.values), "file": p.place} for p in prompts])
            return
        table = new_table("Task", "Version", "Parser", "Temp.", "Tokens", "Values", "File")
        for prompt in prompts:
            about = prompt.about
            limit = "by task" if about.max_tokens is None else str(about.max_tokens)
            values = ", ".join(sorted(prompt.values))
            temperature = "recipe's" if about.temperature is None else f"{about.temperature:g}"
            cells = (about.task, f"{about.version}", about.parser, temperature, limit, values)
            table.add_row(*cells, "built in" if prompt.place.startswith(str(TEMPLATES)) else escape(prompt.place))
        out.print(table)


@app.command()
def show(task: Task, recipe: MaybeRecipe = None, overrides: Overrides = None) -> None:
    """Print the file of a task: a beginning for your own."""
    with readable_errors():
        from pipeline.llm.prompts import load

        print_text(load(task, _section(recipe, overrides)).source)


@app.command()
def render(task: Task, recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print the conversation of a task, filled in with a row of the recipe's finished stages. Asks nobody."""
    with readable_errors():
        from pipeline.prompted import example
        from pipeline.recipe import load_recipe
        from pipeline.runner import finished_artifacts
        from pipeline.workspace import Workspace

        loaded = load_recipe(recipe, overrides)
        shown = example(task, loaded, finished_artifacts(loaded, Workspace(loaded.workspace)))
        if as_json:
            print_json(asdict(shown))
            return
        for message in shown.messages:
            out.print(f"[bold]{message['role']}[/]", highlight=False)
            out.print(escape(message["content"]) + "\n", highlight=False, soft_wrap=True)
        sampling = shown.sampling
        out.print(f"temperature {sampling.temperature:g}, at most {sampling.max_tokens} tokens", highlight=False)


def _section(recipe: str | None, overrides: list[str] | None) -> Any:
    from pipeline.recipe import LlmSection, load_recipe

    return LlmSection() if recipe is None else load_recipe(recipe, overrides).llm
