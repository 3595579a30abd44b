"""Commands about the indexes of a finished run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pipeline.cli.options import AsJson, Overrides, RecipePath, finished_artifacts_of
from pipeline.cli.terminal import new_table, out, print_json, readable_errors, size
from pipeline.errors import RayrieverError

if TYPE_CHECKING:
    from pipeline.index.check import Quality

app = typer.Typer(no_args_is_help=True, help="Look at the indexes of a finished run, and measure them.")

EncoderName = Annotated[
    str | None, typer.Option("--encoder", metavar="NAME", help="base, tuned or aligned; default: the last one trained.")
]


@app.command()
def info(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what the finished indexes are: kind, shards, size, encoder."""
    with readable_errors():
        from pipeline.encoder.systems import dense_systems
        from pipeline.index.manifest import About
        from pipeline.index.search import folder_of
        from pipeline.sharded.folder import VECTORS

        finished = finished_artifacts_of(recipe, overrides)
        rows = []
        for system in dense_systems(finished):
            folder = folder_of(finished[system.index])
            generation = folder.current()
            about = About.of(generation.about)
            rows.append(
                {
                    "encoder": system.name,
                    "folder": folder.path,
                    "generation": generation.number,
                    "vectors": generation.rows(VECTORS),
                    "bytes": generation.bytes,
                    "shards": len(generation.shards[VECTORS]),
                    **{name: asdict(about)[name] for name in ("spec", "why", "effort", "recall", "metric")},
                    "made_by": asdict(about.encoder),
                }
            )
        if not rows:
            raise RayrieverError(f"index: none is finished. First: rayriever run {recipe} --until index_base")
        if as_json:
            print_json(rows)
            return
        table = new_table("Encoder", "Kind", "Vectors", "Dimensions", "Shards", "Size", "Recall@10", "Chosen because")
        for row in rows:
            spec, recall = row["spec"], row["recall"]
            counts = [f"{number:,}" for number in (row["vectors"], spec["dimension"], row["shards"])]
            shown = "exact" if spec["kind"] == "flat" else f"{recall:.3f}"
            table.add_row(row["encoder"], spec["kind"], *counts, size(row["bytes"]), shown, escape(row["why"]))
        out.print(table)


@app.command()
def check(
    recipe: RecipePath,
    overrides: Overrides = None,
    encoder: EncoderName = None,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Queries to search at most.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Compare an index's search with exact search; its files are checked, too.

    Queries are those of the dev and test splits, or the run's others where there are none.
    """
    with readable_errors():
        from pipeline.collection.operate import system_of
        from pipeline.mining.quality import check as measure
        from pipeline.recipe import load_recipe

        finished = finished_artifacts_of(recipe, overrides)
        system = system_of(finished, encoder)
        model = system.model(finished)
        found = measure(load_recipe(recipe, overrides), finished[system.index], model, finished["queries"], queries)
        if as_json:
            print_json({"encoder": system.name, **asdict(found)})
        else:
            _show(system.name, found)


def _show(encoder: str, found: Quality) -> None:
    table = new_table("Index", encoder, title=f"{found.queries:,} queries")
    for depth, value in found.recall.items():
        table.add_row(f"recall@{depth} against exact", f"{value:.4f}")
    table.add_row("one query, p50 / p95", f"{found.query_ms_p50:.1f} / {found.query_ms_p95:.1f} ms")
    table.add_row("all at once", f"{found.queries_per_s:,.0f} queries/s")
    table.add_row("per vector", f"{found.bytes_per_vector:,.0f} bytes")
    out.print(table)
