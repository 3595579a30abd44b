"""`rayriever calibrate`, and what `rayriever plan --cluster` shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import AsJson, Overrides, RecipePath
from pipeline.cli.terminal import err, new_table, out, print_json, print_text, readable_errors
from pipeline.errors import RayrieverError

if TYPE_CHECKING:
    from cluster.capacity.plan import CapacityPlan, Spread
    from pipeline.recipe import Recipe

app = typer.Typer()


@app.command()
def calibrate(
    recipe: RecipePath,
    overrides: Overrides = None,
    to: Annotated[Path | None, typer.Option("--out", help="File for `plan --cluster`; default: shown alone.")] = None,
    passages: Annotated[
        tuple[int, int], typer.Option(min=1, help="First passages of the corpus in each of the two samples.")
    ] = (1_000, 4_000),
    queries: Annotated[tuple[int, int], typer.Option(min=1, help="Queries made in each of them.")] = (16, 48),
    as_json: AsJson = False,
) -> None:
    """Measure what each stage takes here, on two samples of the corpus. Asks the recipe's LLM."""
    with readable_errors():
        from cluster.capacity.calibration import Sample, calibrate
        from pipeline.progress_bar import Bars
        from pipeline.recipe import load_recipe

        samples = [Sample(*each) for each in zip(passages, queries, strict=True)]
        if passages[0] >= passages[1] or queries[0] >= queries[1]:
            raise RayrieverError("--passages and --queries: the second sample must be larger than the first.")
        with Bars(err) as listener:
            found = calibrate(load_recipe(recipe, overrides), samples, listener)
        if to is not None:
            to.write_text(found.to_json())
        if as_json:
            print_text(found.to_json())
            return
        table = new_table("Stage", "Counted in", "Per second and worker", "Overhead (s)")
        for stage, pace in found.paces.items():
            table.add_row(stage, pace.unit, f"{1 / pace.worker_s_per_unit:,.1f}", f"{pace.overhead_s:,.1f}")
        out.print(table)


def show_capacity(
    recipe: Recipe,
    cluster: Path,
    calibration: Path | None,
    passages: Sequence[int],
    prices: Sequence[str],
    losses_per_hour: float,
    as_json: bool,
) -> None:
    """Print the plan for the corpus as it is, or for each of these sizes. Raises RayrieverError for bad input."""
    from cluster.capacity.calibration import Calibration
    from cluster.capacity.plan import plan_capacity, read_groups
    from cluster.capacity.simulation import Chances

    if calibration is None:
        raise RayrieverError("plan --cluster: needs --calibration FILE. Make it: rayriever calibrate RECIPE --out FILE")
    groups = read_groups(cluster, dict(_price(each) for each in prices))
    paces, chances = Calibration.read(calibration), Chances(losses_per_hour=losses_per_hour)
    sizes: Sequence[int | None] = passages or [None]
    plans = [plan_capacity(recipe, groups, paces, size, chances) for size in sizes]
    if as_json:
        print_json([each.to_json() for each in plans])
        return
    if len(plans) == 1:
        _show_stages(plans[0])
    _show_sizes(plans)
    for stage in plans[0].unmeasured:
        err.print(f"{stage}: not in the calibration, and not in the sums.", highlight=False)


def _show_stages(plan: CapacityPlan) -> None:
    table = new_table("Stage", "Work", "Workers", "Nodes", "Hours", "Money", "Storage (GB)")
    for each in plan.stages:
        nodes = f"{each.nodes} {each.group}"
        sums = [f"{each.hours:,.2f}", f"{each.money:,.2f}", f"{each.storage_gb:,.1f}"]
        table.add_row(each.stage, f"{each.amount:,.0f} {each.unit}", str(each.workers), nodes, *sums)
    out.print(table)


def _show_sizes(plans: Sequence[CapacityPlan]) -> None:
    """Figures as reckoned, and between which of them eight of ten runs are that were played through."""
    table = new_table("Passages", "Hours", "8 of 10", "Nodes' money", "8 of 10", "LLM", "Storage (GB)", "Longest")
    for each in plans:
        hours = [f"{each.hours:,.1f}", _between(each.hours_spread)]
        money = [f"{each.nodes_money:,.2f}", _between(each.money_spread)]
        llm = "-" if each.llm_money is None else f"{each.llm_money:,.2f}"
        table.add_row(f"{each.passages:,}", *hours, *money, llm, f"{each.storage_gb:,.1f}", each.bottleneck)
    out.print(table)


def _between(spread: Spread) -> str:
    return f"{spread.low:,.1f} to {spread.high:,.1f}"


def _price(text: str) -> tuple[str, float]:
    name, _, money = text.partition("=")
    try:
        return name, float(money)
    except ValueError as error:
        raise RayrieverError(f"--price {text}: not NODE_TYPE=MONEY_PER_HOUR.") from error
