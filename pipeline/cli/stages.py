"""Commands that run stages, or say what is done and what would run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli.options import AsJson, Overrides, RecipePath, Start, Until
from pipeline.cli.results import load_report, show_report
from pipeline.cli.terminal import err, new_table, out, print_json, readable_errors, show_checks, size
from pipeline.errors import RayrieverError

if TYPE_CHECKING:
    from pipeline.artifact import Manifest
    from pipeline.llm.store import Usage
    from pipeline.recipe import LlmSection
    from pipeline.stage import Estimate

app = typer.Typer()

_LLM_COUNTS = {"LLM requests": "requests", "Tokens in": "tokens_in", "Tokens out": "tokens_out"}


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    start: Start = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Run the recipe: finished stages are reused, a killed run goes on where it was."""
    with readable_errors():
        from pipeline.evaluation.stage import last_evaluation
        from pipeline.progress_bar import Bars
        from pipeline.recipe import load_recipe
        from pipeline.runner import run as run_stages

        loaded = load_recipe(recipe, overrides)
        with Bars(err) as listener:
            finished = run_stages(loaded, listener, start, until)
        if as_json:
            print_json({name: json.loads(artifact.manifest.to_json()) for name, artifact in finished.items()})
        elif (evaluated := last_evaluation(finished)) is not None:
            show_report(load_report(evaluated))
            out.print(f"Report: {loaded.workspace}/report.md", highlight=False, soft_wrap=True)


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    start: Start = None,
    until: Until = None,
    cluster: Annotated[
        Path | None, typer.Option(help="A Ray cluster file: reckon hours, nodes and money on its node types.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="With --cluster: what `rayriever calibrate` has measured.")
    ] = None,
    passages: Annotated[
        list[int] | None, typer.Option(min=1, help="With --cluster: as if the corpus had so many; repeatable.")
    ] = None,
    prices: Annotated[
        list[str] | None,
        typer.Option("--price", metavar="TYPE=MONEY", help="With --cluster: a node of the type for an hour."),
    ] = None,
    losses: Annotated[
        float | None, typer.Option(min=0, help="With --cluster: losses of a spot node per hour; default: 0.02.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which stages would run and what they would cost. Spends nothing."""
    with readable_errors():
        from pipeline.llm.pricing import cost
        from pipeline.recipe import load_recipe
        from pipeline.runner import plan as plan_stages
        from pipeline.workspace import Workspace

        loaded = load_recipe(recipe, overrides)
        if cluster is not None:
            _reject("a plan with --cluster is of the whole run", {"--from": start, "--until": until})
            _show_capacity()(loaded, cluster, calibration, passages or [], prices or [], losses, as_json)
            return
        of_cluster = {"--calibration": calibration, "--passages": passages, "--price": prices, "--losses": losses}
        _reject("without --cluster FILE it has no meaning", of_cluster)
        steps = plan_stages(loaded, Workspace(loaded.workspace), start, until)
        rows = [{"stage": s.stage.name, "action": s.action, "key": s.key, **_foreseen(s.estimate)} for s in steps]
        if as_json:
            print_json(rows)
            return
        table = new_table("Stage", "Action", "Rows", "LLM requests", "Tokens in", "Tokens out", "Disk")
        for row in rows:
            counts = [f"{row[name]:,}" for name in ("rows", "llm_requests", "llm_tokens_in", "llm_tokens_out")]
            table.add_row(row["stage"], row["action"], *counts, size(row["disk_bytes"]))
        out.print(table)
        for row in rows:
            if row["note"]:
                out.print(f"{row['stage']}: {escape(row['note'])}", highlight=False, soft_wrap=True)
        to_run = [row for row in rows if row["action"] == "run"]
        total = {name: sum(row[name] for row in to_run) for name in ("llm_requests", "llm_tokens_in", "llm_tokens_out")}
        price = loaded.llm.price
        money = price and cost(price, total["llm_tokens_in"], 0, total["llm_tokens_out"])
        out.print(
            f"{len(to_run)} of {len(rows)} stages would run: about {total['llm_requests']:,} LLM requests, "
            f"about {total['llm_tokens_in']:,} tokens in and {total['llm_tokens_out']:,} out"
            f"{'' if money is None else f', {money:,.2f} by llm.price'}. "
            "Answers already stored are not asked again."
        )


def _reject(why: str, options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise RayrieverError(f"plan: {name}: {why}.")


def _show_capacity() -> Any:
    """Of a package that the pipeline knows nothing of."""
    for found in entry_points(group="rayriever.capacity"):
        return found.load()
    raise RayrieverError("plan --cluster: the package's entry points are missing. Install it again.")


def _foreseen(estimate: Estimate) -> dict[str, Any]:
    return {name: value for name, value in asdict(estimate).items() if name != "examples"}


@app.command()
def status(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what is finished in the recipe's workspace."""
    with readable_errors():
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
            print_json({"stages": stages, "llm": asdict(llm), "workspace_bytes": workspace.size_bytes()})
            return
        table = new_table("Stage", "State", "Rows", "Quarantine", "Seconds", "Peak MB")
        for name in names:
            if name not in finished:
                table.add_row(name, "to do", *[""] * 4)
                continue
            manifest = finished[name].manifest
            rows = ", ".join(f"{entry.rows:,} {t}" for t, entry in manifest.tables.items() if t != "quarantine")
            cells = [f"{manifest.quarantined:,}", f"{manifest.seconds:.1f}", f"{manifest.peak_memory_mb:,.0f}"]
            table.add_row(name, "done", rows, *cells)
        out.print(table)
        if asking := [finished[name].manifest for name in names if name in finished and finished[name].manifest.llm]:
            out.print(_used(asking))
        out.print(
            f"LLM: {llm.sent:,} requests sent over all runs, {llm.answered:,} answers stored, "
            f"{llm.tokens_in:,} tokens in, {llm.tokens_out:,} out. Workspace: {size(workspace.size_bytes())}."
        )
        if llm.usages:
            out.print(_usage(llm.usages, loaded.llm))


def _used(manifests: Sequence[Manifest]) -> Table:
    """What the answers of each stage took, and how far off the plan was."""
    shown = new_table("Stage", *(column for name in _LLM_COUNTS for column in (name, "planned")))
    for manifest in manifests:
        cells = []
        for key in _LLM_COUNTS.values():
            used, planned = manifest.llm.get(key, 0), manifest.llm_foreseen.get(key, 0)
            cells += [f"{used:,}", f"{planned:,} ({planned / used - 1:+.0%})" if used and planned else ""]
        shown.add_row(manifest.stage, *cells)
    return shown


def _usage(usages: Sequence[Usage], section: LlmSection) -> Table:
    """What was asked for what, and what it cost: known of the recipe's own model only, where the recipe says it."""
    from pipeline.llm.pricing import cost
    from pipeline.llm.requests import model_identity

    shown = new_table("Asked for", "Model", "Sent", "Answered", "Tokens in", "Cached", "Out", "Cost")
    for use in usages:
        counts = [f"{n:,}" for n in (use.sent, use.answered, use.tokens_in, use.tokens_cached, use.tokens_out)]
        priced = section.price if use.model == model_identity(section) else None
        money = "" if priced is None else f"{cost(priced, use.tokens_in, use.tokens_cached, use.tokens_out):,.2f}"
        shown.add_row(use.purpose, escape(use.model), *counts, money)
    return shown


@app.command()
def doctor(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check that this machine can run the recipe. Exits with 1 when something is missing."""
    with readable_errors():
        from pipeline.doctor import examine
        from pipeline.recipe import load_recipe

        show_checks(examine(load_recipe(recipe, overrides)), as_json)
