"""The `rayriever` command: the only place that prints."""

from __future__ import annotations

from importlib.metadata import entry_points

import typer

from pipeline.cli import ablation, collections, indexes, prompts, rankings, recipes, results, stages

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold keys
    help="From a corpus and an LLM to a better retriever.",
)
for group in (stages, ablation, results, rankings, recipes):
    app.add_typer(group.app)
app.add_typer(prompts.app, name="prompt")
app.add_typer(indexes.app, name="index")
app.add_typer(collections.app, name="collection")
# Commands of packages that the pipeline knows nothing of
for found in entry_points(group="rayriever.commands"):
    app.add_typer(found.load())
