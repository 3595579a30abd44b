"""Commands about rankings in files, whoever made them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pipeline.cli.options import AsJson
from pipeline.cli.terminal import new_table, out, print_json, readable_errors
from pipeline.errors import RayrieverError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.rankings import Rankings

app = typer.Typer()

_AGGREGATE = "aggregate"


@app.command()
def aggregate(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="TREC runs of the same queries.")],
    qrels: Annotated[
        str | None, typer.Option("--qrels", metavar="FILE", help="Judgments to measure by: TREC's form or BEIR's.")
    ] = None,
    baselines: Annotated[
        list[str] | None, typer.Option("--baseline", metavar="RUN", help="A run to measure beside them; repeatable.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", metavar="N", min=1, help="Merge only the first N passages of each run.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="FILE", help="TREC run to write; .gz compresses it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Merge several rankings of the same queries into one by Borda's count, and measure all of them."""
    with readable_errors():
        from pipeline.export import new_file
        from pipeline.rankings import to_table
        from pipeline.recorded import file_name
        from pipeline.reranking.recorded import merged, read_runs, run_files
        from pipeline.trec import from_qrels, read_file, to_run

        if qrels is None and output is None:
            raise RayrieverError("aggregate: give --qrels to measure, --output to write the merged run, or both.")
        judgments = None if qrels is None else from_qrels(read_file(qrels), file_name(qrels))
        passes = read_runs([file for run in runs for file in run_files(run)])
        others = read_runs([file for run in baselines or () for file in run_files(run)])
        together = merged(passes, depth)
        if output is not None:
            with new_file(output) as stream:
                stream.write(to_run(to_table(_AGGREGATE, together)))
        rows = [_row(each.name, each.hits(), judgments) for each in (*others, *passes)]
        rows.append(_row(_AGGREGATE, together, judgments))
        if as_json:
            print_json(rows)
        else:
            _show(rows, output)


def _row(name: str, rankings: Rankings, judgments: pa.Table | None) -> dict[str, Any]:
    from pipeline.evaluation.metrics import score
    from pipeline.rankings import to_table

    row: dict[str, Any] = {"run": name, "queries": len(rankings)}
    if judgments is None:
        return row
    means = score(to_table(name, rankings), judgments, name).means
    if means is None:
        raise RayrieverError("aggregate: --qrels has no judgment. Give the judgments of these queries.")
    return {**row, "judged_queries": means.queries, "ndcg_at_10": means.ndcg_at_10}


def _show(rows: list[dict[str, Any]], output: str | None) -> None:
    measured = "ndcg_at_10" in rows[0]
    table = new_table("Run", "Queries", *(("Judged", "nDCG@10") if measured else ()))
    for row in rows:
        figures = (f"{row['judged_queries']:,}", f"{row['ndcg_at_10']:.3f}") if measured else ()
        table.add_row(escape(row["run"]), f"{row['queries']:,}", *figures)
    out.print(table)
    if output is not None:
        out.print(f"{rows[-1]['queries']:,} lists written to {escape(output)}.", highlight=False, soft_wrap=True)
