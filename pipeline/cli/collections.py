"""Commands about collections: what is searched online, and changes without a new run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pipeline.cli.options import AsJson, Overrides, RecipePath, finished_artifacts_of
from pipeline.cli.terminal import err, new_table, out, print_json, readable_errors, size

if TYPE_CHECKING:
    from pipeline.sharded.folder import Generation, ShardFolder

app = typer.Typer(no_args_is_help=True, help="Publish what a run made, and add or delete passages afterwards.")

Name = Annotated[str, typer.Option("--name", metavar="NAME", help="Which collection of the workspace.")]
EncoderName = Annotated[
    str | None,
    typer.Option("--encoder", metavar="NAME", help="base, tuned or aligned; default: the run's choice."),
]
_LIVE = "live"


@app.command()
def publish(
    recipe: RecipePath,
    overrides: Overrides = None,
    encoder: EncoderName = None,
    name: Name = _LIVE,
    as_json: AsJson = False,
) -> None:
    """Make a collection of the finished run, or replace what it holds by a newer one."""
    with readable_errors():
        from pipeline.collection.about import collection_folder
        from pipeline.collection.operate import publish_run
        from pipeline.recipe import load_recipe

        loaded, finished = load_recipe(recipe, overrides), finished_artifacts_of(recipe, overrides)
        generation = publish_run(loaded, finished, name, encoder)
        _show(collection_folder(finished["corpus"].workspace, name), generation, as_json)


@app.command()
def add(
    recipe: RecipePath,
    path: Annotated[str, typer.Argument(metavar="PATH", help="File or folder, read as the recipe's corpus is.")],
    overrides: Overrides = None,
    name: Name = _LIVE,
    as_json: AsJson = False,
) -> None:
    """Add passages; those whose ids are there already are replaced. Only these are encoded."""
    with readable_errors():
        from pipeline.collection.operate import add_file, opened
        from pipeline.recipe import load_recipe

        loaded = load_recipe(recipe, overrides)
        _show(opened(loaded, name), add_file(loaded, path, name), as_json)


@app.command()
def delete(
    recipe: RecipePath,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Passage ids; @FILE reads them from its lines.")],
    overrides: Overrides = None,
    name: Name = _LIVE,
    as_json: AsJson = False,
) -> None:
    """Delete passages by id."""
    with readable_errors():
        from pipeline.collection.change import delete as delete_passages
        from pipeline.collection.operate import ids_of, opened
        from pipeline.recipe import load_recipe

        folder = opened(load_recipe(recipe, overrides), name)
        changed = delete_passages(folder, ids_of(ids))
        if changed is None and not as_json:
            out.print("None of these is there: nothing to delete.")
            return
        _show(folder, changed or folder.current(), as_json)


@app.command()
def compact(recipe: RecipePath, overrides: Overrides = None, name: Name = _LIVE, as_json: AsJson = False) -> None:
    """Write the collection anew without what was deleted. The old generation goes with the next `prune`."""
    with readable_errors():
        from pipeline.collection.compact import compact as write_anew
        from pipeline.collection.operate import opened
        from pipeline.progress_bar import Bars
        from pipeline.recipe import load_recipe

        loaded = load_recipe(recipe, overrides)
        folder = opened(loaded, name)
        with Bars(err) as listener:
            _show(folder, write_anew(folder, loaded, listener), as_json)


@app.command()
def prune(recipe: RecipePath, overrides: Overrides = None, name: Name = _LIVE, as_json: AsJson = False) -> None:
    """Delete generations that nobody reads, a minute after the next one came, and leftovers of failed changes."""
    with readable_errors():
        from pipeline.collection.compact import prune as delete_old
        from pipeline.collection.operate import opened
        from pipeline.recipe import load_recipe

        deleted = delete_old(opened(load_recipe(recipe, overrides), name))
        if as_json:
            print_json({"deleted": deleted})
        else:
            out.print(f"{len(deleted):,} generations deleted.")


@app.command()
def info(recipe: RecipePath, overrides: Overrides = None, name: Name = _LIVE, as_json: AsJson = False) -> None:
    """Show the generations of a collection, which of them somebody reads, and what they hold."""
    with readable_errors():
        from pipeline.collection.leases import held
        from pipeline.collection.operate import opened
        from pipeline.recipe import load_recipe

        folder = opened(load_recipe(recipe, overrides), name)
        reading = held(folder)
        rows = [
            _row(folder, folder.generation(number)) | {"read": number in reading, "folder": folder.path}
            for number in folder.generations()
        ]
        if as_json:
            print_json(rows)
            return
        table = new_table("Generation", "Change", "Encoder", "Passages", "Shards", "Size", "Read")
        for row in rows:
            counts = [f"{row['passages']:,}", f"{row['shards']:,}", size(row["bytes"])]
            read = "yes" if row["read"] else ""
            table.add_row(str(row["generation"]), escape(row["change"]), row["encoder"], *counts, read)
        out.print(table)


def _row(folder: ShardFolder, generation: Generation) -> dict[str, Any]:
    from pipeline.collection.about import About
    from pipeline.collection.passages import living
    from pipeline.sharded.folder import VECTORS

    about = About.of(generation.about)
    return {
        "generation": generation.number,
        "change": about.change,
        "encoder": about.encoder,
        "passages": living(folder, generation),
        "shards": len(generation.shards[VECTORS]),
        "bytes": generation.bytes,
    }


def _show(folder: ShardFolder, generation: Generation, as_json: bool) -> None:
    row = _row(folder, generation)
    if as_json:
        print_json(row)
    else:
        holds = f"{row['passages']:,} passages in {row['shards']:,} shards"
        out.print(f"Generation {row['generation']}: {row['change']}. {holds}.")
