"""The `rayriever` command: the only place that prints. Results go to stdout, progress to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from pipeline.errors import RayrieverError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold keys
    help="From a corpus and an LLM to a better retriever.",
)
out = Console()
err = Console(stderr=True)
_ABLATION_WIDTH = 160  # columns that the widest table needs

RecipePath = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value, such as llm.actors=2.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Start = Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Run again from this stage on.")]
Until = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")]


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    start: Start = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Run the recipe: finished stages are reused, a killed run goes on where it was."""
    with _readable_errors():
        from pipeline.progress_bar import Bars
        from pipeline.recipe import load_recipe
        from pipeline.runner import run as run_stages

        loaded = load_recipe(recipe, overrides)
        with Bars(err) as listener:
            finished = run_stages(loaded, listener, start, until)
        if as_json:
            _print_json({name: json.loads(artifact.manifest.to_json()) for name, artifact in finished.items()})
        elif "evaluate" in finished:
            _show_report(_load_report(finished["evaluate"]))
            out.print(f"Report: {loaded.workspace}/report.md", highlight=False, soft_wrap=True)


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
    with _readable_errors():
        from pipeline.ablation.run import ablate as run_arms
        from pipeline.progress_bar import Bars
        from pipeline.recipe import load_recipe

        loaded = load_recipe(recipe, overrides)
        with Bars(err) as listener:
            result = run_arms(loaded, listener, lambda text: err.print(escape(text), soft_wrap=True), arms or [])
        if as_json:
            sys.stdout.write(result.to_json())
        else:
            _show_ablation(result)
            out.print(f"Report: {loaded.workspace}/ablation.md", highlight=False, soft_wrap=True)
        if result.failed:
            raise typer.Exit(1)


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    start: Start = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Show which stages would run and what they would cost. Spends nothing."""
    with _readable_errors():
        from pipeline.recipe import load_recipe
        from pipeline.runner import plan as plan_stages
        from pipeline.workspace import Workspace

        loaded = load_recipe(recipe, overrides)
        steps = plan_stages(loaded, Workspace(loaded.workspace), start, until)
        rows = [{"stage": s.stage.name, "action": s.action, "key": s.key, **asdict(s.estimate)} for s in steps]
        if as_json:
            _print_json(rows)
            return
        table = _table("Stage", "Action", "Rows", "LLM requests", "Tokens in", "Tokens out", "Disk")
        for row in rows:
            counts = [f"{row[name]:,}" for name in ("rows", "llm_requests", "llm_tokens_in", "llm_tokens_out")]
            table.add_row(row["stage"], row["action"], *counts, _size(row["disk_bytes"]))
        out.print(table)
        for row in rows:
            if row["note"]:
                out.print(f"{row['stage']}: {escape(row['note'])}", highlight=False, soft_wrap=True)
        to_run = [row for row in rows if row["action"] == "run"]
        total = {name: sum(row[name] for row in to_run) for name in ("llm_requests", "llm_tokens_in", "llm_tokens_out")}
        out.print(
            f"{len(to_run)} of {len(rows)} stages would run: about {total['llm_requests']:,} LLM requests, "
            f"about {total['llm_tokens_in']:,} tokens in and {total['llm_tokens_out']:,} out. "
            "Answers already stored are not asked again."
        )


@app.command()
def status(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what is finished in the recipe's workspace."""
    with _readable_errors():
        from pipeline.llm.store import totals
        from pipeline.recipe import load_recipe
        from pipeline.runner import finished_artifacts
        from pipeline.stages import stages_of
        from pipeline.workspace import Workspace

        loaded = load_recipe(recipe, overrides)
        workspace = Workspace(loaded.workspace)
        finished = finished_artifacts(loaded, workspace)
        names = [stage.name for stage in stages_of(loaded)]
        llm = totals(workspace)
        if as_json:
            stages = {n: json.loads(finished[n].manifest.to_json()) if n in finished else None for n in names}
            _print_json({"stages": stages, "llm": asdict(llm), "workspace_bytes": workspace.size_bytes()})
            return
        table = _table("Stage", "State", "Rows", "Quarantine", "Seconds", "Peak MB")
        for name in names:
            if name not in finished:
                table.add_row(name, "to do", *[""] * 4)
                continue
            manifest = finished[name].manifest
            rows = ", ".join(f"{entry.rows:,} {t}" for t, entry in manifest.tables.items() if t != "quarantine")
            cells = [f"{manifest.quarantined:,}", f"{manifest.seconds:.1f}", f"{manifest.peak_memory_mb:,.0f}"]
            table.add_row(name, "done", rows, *cells)
        out.print(table)
        out.print(
            f"LLM: {llm.sent:,} requests sent over all runs, {llm.answered:,} answers stored, "
            f"{llm.tokens_in:,} tokens in, {llm.tokens_out:,} out. Workspace: {_size(workspace.size_bytes())}."
        )


@app.command()
def doctor(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check that this machine can run the recipe. Exits with 1 when something is missing."""
    with _readable_errors():
        from pipeline.doctor import examine
        from pipeline.recipe import load_recipe

        checks = examine(load_recipe(recipe, overrides))
        if as_json:
            _print_json([asdict(check) for check in checks])
        else:
            table = _table("Check", "State", "Detail")
            colours = {"ok": "green", "warning": "yellow", "failed": "red"}
            for check in checks:
                table.add_row(check.name, f"[{colours[check.state]}]{check.state}[/]", escape(check.detail))
            out.print(table)
        if any(check.state == "failed" for check in checks):
            raise typer.Exit(1)


@app.command()
def keys(
    section: Annotated[str | None, typer.Argument(metavar="[SECTION]", help="One section, such as llm.")] = None,
    as_json: AsJson = False,
) -> None:
    """List every recipe key with its default and what it means."""
    with _readable_errors():
        from pipeline.recipe import describe

        rows = [key for key in describe() if section is None or key.name.split(".")[0] == section]
        if not rows:
            raise RayrieverError(f"keys: there is no section {section!r}.")
        if as_json:
            _print_json([asdict(key) for key in rows])
            return
        table = _table("Key", "Default", "Meaning")
        for key in rows:
            table.add_row(key.name, escape(key.default), escape(key.description))
        out.print(table)


@app.command()
def report(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show the report of the finished run."""
    with _readable_errors():
        artifact = _finished(recipe, overrides).get("evaluate")
        if artifact is None:
            raise RayrieverError(f"report: not there yet. First: rayriever run {recipe}")
        loaded = _load_report(artifact)
        if as_json:
            sys.stdout.write(loaded.to_json())
        else:
            _show_report(loaded)


@app.command()
def search(
    recipe: RecipePath,
    queries: Annotated[list[str], typer.Argument(metavar="QUERY...", help="One or more queries.")],
    overrides: Overrides = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=100, help="Hits per query.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Search the finished indexes, base and every trained encoder side by side."""
    with _readable_errors():
        from pipeline.live import search as search_live
        from pipeline.recipe import load_recipe

        found = search_live(load_recipe(recipe, overrides), _finished(recipe, overrides), queries, top_k)
        if as_json:
            _print_json(
                [
                    {"query": query, **{system: [asdict(hit) for hit in hits[place]] for system, hits in found.items()}}
                    for place, query in enumerate(queries)
                ]
            )
            return
        for place, query in enumerate(queries):
            table = Table("", *(f"{system} encoder" for system in found), title=escape(query), title_justify="left")
            for rank in range(top_k):
                shown = [_shown(hits[place][rank]) if rank < len(hits[place]) else "" for hits in found.values()]
                table.add_row(str(rank + 1), *shown)
            out.print(table)


@app.command()
def export(
    recipe: RecipePath,
    format: Annotated[str, typer.Option("--format", help="flagembedding or sentence-transformers.")],
    path: Annotated[str, typer.Option("--out", metavar="FILE", help="JSON lines to write; .gz compresses them.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the training examples of the finished run as a file for another trainer."""
    with _readable_errors():
        from pipeline.training.exchange import WRITERS, stored_examples

        if format not in WRITERS:
            raise RayrieverError(f"export: there is no format {format!r}; known are {', '.join(WRITERS)}.")
        artifact = _finished(recipe, overrides).get("distill")
        if artifact is None:
            raise RayrieverError(f"export: no examples yet. First: rayriever run {recipe} --until distill")
        written = WRITERS[format](stored_examples(artifact), path)
        if as_json:
            _print_json(asdict(written))
            return
        out.print(f"{written.rows:,} rows written to {escape(path)}.", highlight=False, soft_wrap=True)
        if written.negatives_left_out:
            out.print(
                f"{written.negatives_left_out:,} negatives left out: all rows have as many as the row with the fewest.",
                soft_wrap=True,
            )
        if written.queries_without_positive:
            out.print(f"{written.queries_without_positive:,} queries without positive left out.", soft_wrap=True)


def _finished(recipe: str, overrides: Sequence[str] | None) -> dict[str, Any]:
    from pipeline.recipe import load_recipe
    from pipeline.runner import finished_artifacts
    from pipeline.workspace import Workspace

    loaded = load_recipe(recipe, list(overrides or []))
    return finished_artifacts(loaded, Workspace(loaded.workspace))


def _shown(hit: Any) -> str:
    text = " ".join(hit.text.split())
    return f"[bold]{escape(hit.title or hit.passage_id)}[/] {hit.score:.3f}\n{escape(text[:110])}"


def _load_report(artifact: Any) -> Any:
    from pipeline.evaluation.report import Report
    from pipeline.evaluation.stage import REPORT

    return Report.from_json(artifact.file(REPORT, "report.json").read_text(encoding="utf-8"))


def _show_report(loaded: Any) -> None:
    from pipeline.evaluation.markdown import summary
    from pipeline.evaluation.report import TABLE_HEADER, table_rows

    table = _table(
        *(name.replace("recall@", "R@") for name in TABLE_HEADER),
        title=f"{escape(loaded.title)}: {loaded.passages:,} passages",
    )
    for row in table_rows(loaded.systems):
        table.add_row(*map(escape, row))
    out.print(table)
    for line in summary(loaded):
        out.print(escape(line), highlight=False, soft_wrap=True)


def _show_ablation(result: Any) -> None:
    from pipeline.ablation import markdown

    for split in result.splits:
        table = _table(*map(escape, markdown.header(result, split)), title=f"{split.split}: {split.queries:,} queries")
        for row in markdown.cells(result, split, intervals=False):
            table.add_row(*map(escape, row))
        # A wrapped line can be read; a figure cut to its first digits cannot.
        Console(width=max(out.width, _ABLATION_WIDTH)).print(table)
    for line in (*markdown.notes(result), markdown.choice(result)):
        out.print(escape(line), highlight=False, soft_wrap=True)
    for line in markdown.failures(result):
        err.print(f"[red]failed:[/] {escape(line)}", highlight=False, soft_wrap=True)


def _table(first: str, *others: str, title: str | None = None) -> Table:
    """A narrow table whose first column is never cut."""
    columns = [Column(first, no_wrap=True), *map(Column, others)]
    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


@contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except RayrieverError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except OSError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        err.print("stopped; the same command goes on from here.")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
