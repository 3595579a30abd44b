"""Commands that show or write what a finished run has made."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli.options import AsJson, Overrides, RecipePath, finished_artifacts_of
from pipeline.cli.terminal import new_table, out, print_json, print_text, readable_errors
from pipeline.errors import RayrieverError

app = typer.Typer()


@app.command()
def report(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show the report of the finished run."""
    with readable_errors():
        from pipeline.evaluation.stage import last_evaluation

        artifact = last_evaluation(finished_artifacts_of(recipe, overrides))
        if artifact is None:
            raise RayrieverError(f"report: not there yet. First: rayriever run {recipe}")
        loaded = load_report(artifact)
        if as_json:
            print_text(loaded.to_json())
        else:
            show_report(loaded)


@app.command()
def search(
    recipe: RecipePath,
    queries: Annotated[list[str], typer.Argument(metavar="QUERY...", help="One or more queries.")],
    overrides: Overrides = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=100, help="Hits per query.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Search the finished indexes: base, every trained encoder and the reranker side by side."""
    with readable_errors():
        from pipeline.live import RERANKED
        from pipeline.live import search as search_live
        from pipeline.recipe import load_recipe

        found = search_live(load_recipe(recipe, overrides), finished_artifacts_of(recipe, overrides), queries, top_k)
        if as_json:
            print_json(
                [
                    {"query": query, **{system: [asdict(hit) for hit in hits[place]] for system, hits in found.items()}}
                    for place, query in enumerate(queries)
                ]
            )
            return
        for place, query in enumerate(queries):
            names = (system if system == RERANKED else f"{system} encoder" for system in found)
            table = Table("", *names, title=escape(query), title_justify="left")
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
    with readable_errors():
        from pipeline.training.exchange import WRITERS, stored_examples

        if format not in WRITERS:
            raise RayrieverError(f"export: there is no format {format!r}; known are {', '.join(WRITERS)}.")
        artifact = finished_artifacts_of(recipe, overrides).get("distill")
        if artifact is None:
            raise RayrieverError(f"export: no examples yet. First: rayriever run {recipe} --until distill")
        written = WRITERS[format](stored_examples(artifact), path)
        if as_json:
            print_json(asdict(written))
            return
        out.print(f"{written.rows:,} rows written to {escape(path)}.", highlight=False, soft_wrap=True)
        if written.negatives_left_out:
            out.print(
                f"{written.negatives_left_out:,} negatives left out: all rows have as many as the row with the fewest.",
                soft_wrap=True,
            )
        if written.queries_without_positive:
            out.print(f"{written.queries_without_positive:,} queries without positive left out.", soft_wrap=True)


@app.command()
def answers(
    recipe: RecipePath,
    path: Annotated[str, typer.Option("--out", metavar="FILE", help="JSON lines to write; .gz compresses them.")],
    purpose: Annotated[
        str | None, typer.Option("--for", metavar="PURPOSE", help="Only these: question, positive, verdict, ...")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write every stored answer of the LLM, with what it was for, by which model, and its tokens."""
    with readable_errors():
        from pipeline.export import new_file, write_row
        from pipeline.llm.store import ResponseStore, totals
        from pipeline.recipe import load_recipe
        from pipeline.workspace import Workspace

        written = 0
        workspace = Workspace(load_recipe(recipe, overrides).workspace)
        if purpose is not None:
            known = sorted(usage.purpose for usage in totals(workspace).usages if usage.answered)
            if purpose not in known:
                there = ", ".join(known) or "nothing"
                raise RayrieverError(f"answers: there are none for {purpose!r}, only for {there}.")
        with new_file(path) as stream:
            for row in ResponseStore(workspace).rows():
                if purpose in (None, row["purpose"]):
                    write_row(stream, row)
                    written += 1
        if as_json:
            print_json({"rows": written})
        else:
            out.print(f"{written:,} answers written to {escape(path)}.", highlight=False, soft_wrap=True)


@app.command()
def hits(
    recipe: RecipePath,
    path: Annotated[str, typer.Option("--out", metavar="FILE", help="TREC run to write; .gz compresses it.")],
    stage: Annotated[
        str, typer.Option("--stage", metavar="STAGE", help="evaluate, mine, preferences, or one of a round.")
    ] = "evaluate",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the hits that a finished stage found as a TREC run."""
    with readable_errors():
        from pyarrow.parquet import read_table

        from pipeline.export import new_file
        from pipeline.trec import to_run

        artifact = finished_artifacts_of(recipe, overrides).get(stage)
        if artifact is None or "hits" not in artifact.manifest.tables:
            raise RayrieverError(f"hits: stage {stage!r} is not finished, or found none. First: rayriever run {recipe}")
        with new_file(path) as stream:
            for part in artifact.parts("hits"):
                stream.write(to_run(read_table(part, filesystem=artifact.workspace.filesystem)))
        rows = artifact.rows("hits")
        if as_json:
            print_json({"rows": rows})
        else:
            out.print(f"{rows:,} hits written to {escape(path)}.", highlight=False, soft_wrap=True)


def _shown(hit: Any) -> str:
    text = " ".join(hit.text.split())
    return f"[bold]{escape(hit.title or hit.passage_id)}[/] {hit.score:.3f}\n{escape(text[:110])}"


def load_report(artifact: Any) -> Any:
    from pipeline.evaluation.report import Report
    from pipeline.evaluation.stage import REPORT

    return Report.from_json(artifact.file(REPORT, "report.json").read_text(encoding="utf-8"))


def show_report(loaded: Any) -> None:
    from pipeline.evaluation.markdown import summary
    from pipeline.evaluation.report import TABLE_HEADER, table_rows

    table = new_table(
        *(name.replace("recall@", "R@") for name in TABLE_HEADER),
        title=f"{escape(loaded.title)}: {loaded.passages:,} passages",
    )
    for row in table_rows(loaded.systems):
        table.add_row(*map(escape, row))
    out.print(table)
    if loaded.reranking is not None:
        out.print(_reranked_table(loaded.reranking))
    for line in summary(loaded):
        out.print(escape(line), highlight=False, soft_wrap=True)


def _reranked_table(reranking: Any) -> Table:
    from pipeline.evaluation.markdown import RERANKED_HEADER, reranked_row

    table = new_table(*RERANKED_HEADER, title="The same reranked")
    for row in reranking.rows:
        table.add_row(*map(escape, reranked_row(row)))
    return table
