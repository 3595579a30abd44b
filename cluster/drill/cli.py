"""`rayriever drill`."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pipeline.cli.options import AsJson
from pipeline.cli.terminal import err, new_table, out, print_json, readable_errors

if TYPE_CHECKING:
    from cluster.drill.drill import Outcome

app = typer.Typer()


@app.command()
def drill(
    cases: Annotated[list[str] | None, typer.Argument(metavar="[CASE]...", help="Default: all.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show the cases, run nothing.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Empty; keeps the artifacts of cases that fail.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start a cluster of this machine, run a small recipe, and let things go wrong in every stage.

    Exits with 1 where a run does not end with what a quiet one makes. Asks no LLM but its own.
    """
    with readable_errors(goes_on=False):
        from cluster.drill.drill import Drill, chosen

        wanted = chosen(cases or [])
        if listed:
            if as_json:
                print_json([{"case": each.name, "stage": each.stage, "summary": each.summary} for each in wanted])
                return
            table = new_table("Case", "In stage", "What happens")
            for each in wanted:
                table.add_row(each.name, each.stage, each.summary)
            out.print(table)
            return
        with tempfile.TemporaryDirectory(prefix="rayriever-") as temporary:
            outcomes: list[Outcome] = []
            with Drill(folder or Path(temporary)) as made:
                err.print("The quiet run.", highlight=False)
                made.run_quietly()
                for case in wanted:
                    outcomes.append(made.perform(case))
                    err.print(f"{case.name}: {_verdict(outcomes[-1])}", highlight=False)
        if as_json:
            print_json([{**asdict(each), "passed": each.passed} for each in outcomes])
        else:
            _show(outcomes)
        if any(not each.passed and not each.skipped for each in outcomes):
            raise typer.Exit(1)


def _show(outcomes: list[Outcome]) -> None:
    table = new_table("Case", "What happened", "Run", "Answers", "Again", "Seconds", "Artifact")
    for each in outcomes:
        run = "went on" if each.submissions == 1 else "submitted again"
        table.add_row(
            each.case,
            f"{each.stage}: {each.summary}",
            run if each.submissions else "-",
            str(each.answers),
            str(each.again),
            f"{each.seconds:.1f}",
            escape(_verdict(each)),
        )
    out.print(table)
    for each in outcomes:
        if each.said:
            out.print(f"{each.case} said: {escape(each.said)}", highlight=False, soft_wrap=True)


def _verdict(outcome: Outcome) -> str:
    if outcome.skipped:
        return f"not tried: {outcome.skipped}"
    if outcome.failed:
        return f"failed: {outcome.failed}"
    if outcome.differences:
        return f"differs: {', '.join(outcome.differences)}"
    if not outcome.expected:
        return f"the same, but the run {outcome.ended.lower()}, and said: {outcome.said or 'nothing'}"
    return "the same" if outcome.passed else f"the same, but {outcome.stored_again} stored answers were asked for again"
