"""`rayriever calibrate`, and what `rayriever plan --cluster` shows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
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
    ] = (1_000, 8_000),
    queries: Annotated[tuple[int, int], typer.Option(min=1, help="Queries made in each of them.")] = (32, 128),
    as_json: AsJson = False,
) -> None:
    """Measure what one worker of each stage does here, on two samples of the corpus. Asks the recipe's LLM."""
    with readable_errors(goes_on=False):
        from cluster.capacity.calibrate import calibrate
        from cluster.capacity.calibration import Sample
        from pipeline.progress_bar import Bars
        from pipeline.recipe import load_recipe

        samples = [Sample(*each) for each in zip(passages, queries, strict=True)]
        if passages[0] >= passages[1] or queries[0] >= queries[1]:
            raise RayrieverError("--passages and --queries: the second sample must be larger than the first.")
        if to is not None and not (to.parent.is_dir() and os.access(to.parent, os.W_OK)):
            raise RayrieverError(f"--out {to}: its folder is not there or cannot be written.")
        with Bars(err) as listener:
            found = calibrate(load_recipe(recipe, overrides), samples, listener)
        if to is not None:
            to.write_text(found.to_json())
        if as_json:
            print_text(found.to_json())
            return
        table = new_table("Stage", "Counted in", "Per second and worker", "Overhead (s)")
        for stage, pace in found.paces.items():
            per_s = f"{'over ' if pace.is_rough else ''}{1 / pace.worker_s_per_unit:,.1f}"
            table.add_row(stage, pace.unit, per_s, f"{pace.overhead_s:,.1f}")
        out.print(table)


def show_capacity(
    recipe: Recipe,
    cluster: Path,
    calibration: Path | None,
    passages: Sequence[int],
    prices: Sequence[str],
    losses_per_hour: float | None,
    as_json: bool,
) -> None:
    """Print the plan for the corpus as it is, or for each of these sizes. Raises RayrieverError for bad input."""
    from cluster.capacity.calibration import Calibration
    from cluster.capacity.nodes import prices_of, read_node_types
    from cluster.capacity.plan import plan_capacity
    from cluster.capacity.simulation import Chances

    if calibration is None:
        raise RayrieverError("plan --cluster: needs --calibration FILE. Make it: rayriever calibrate RECIPE --out FILE")
    nodes = read_node_types(cluster, prices_of(prices))
    paces = Calibration.read(calibration)
    chances = Chances()
    if losses_per_hour is not None:
        if not any(each.is_spot for each in nodes.types):
            raise RayrieverError(
                f"plan: --losses: no node type of {cluster} is spot (node_config.InstanceMarketOptions.MarketType)."
            )
        chances = replace(chances, losses_per_hour=losses_per_hour)
    sizes: Sequence[int | None] = passages or [None]
    plans = [plan_capacity(recipe, nodes, paces, size, chances) for size in sizes]
    if as_json:
        print_json([each.to_json() for each in plans])
        return
    if len(plans) == 1:
        _show_stages(plans[0])
    _show_sizes(plans)
    if rough := sorted({stage for each in plans for stage in each.rough}):
        told = (
            f"Too quick in the samples to be measured, reckoned with the most that they may take: {', '.join(rough)}."
        )
        err.print(told, highlight=False)
    for stage in sorted({stage for each in plans for stage in each.endless}):
        told = (
            f"{stage}: what goes with a spot node takes longer to do again than nodes last; it would hardly end. Give "
        )
        err.print(f"{told}it nodes that stay, fewer at once (training), or smaller pieces (shards).", highlight=False)
    for told in sorted({told for each in plans for told in each.crowded}):
        err.print(f"{told}, which have to be there at once: lower their number, or raise max_workers.", highlight=False)
    for stage in sorted({stage for each in plans for stage in each.unmeasured}):
        err.print(f"Not in the calibration, and in no sum: {stage}.", highlight=False)


def _show_stages(plan: CapacityPlan) -> None:
    table = new_table("Stage", "Work", "Node/s", "Workers", "Nodes", "Hours", "Money", "GB")
    for each in plan.stages:
        work = [f"{each.amount:,.0f} {each.unit}", f"{each.per_node_s:,.0f}", str(each.workers)]
        sums = [f"{each.nodes} {each.node_type}", f"{each.hours:,.2f}", _money(each.money), f"{each.storage_gb:,.1f}"]
        table.add_row(each.stage, *work, *sums)
    out.print(table)


def _show_sizes(plans: Sequence[CapacityPlan]) -> None:
    """Figures as reckoned, and between which of them eight of ten runs are that were played through."""
    table = new_table("Passages", "Hours", "8 of 10", "Nodes' money", "8 of 10", "LLM", "GB", "Longest")
    for each in plans:
        hours = [f"{each.hours:,.1f}", _between(each.hours_spread)]
        money = [_money(each.nodes_money), _between(each.money_spread), _money(each.llm_money)]
        table.add_row(f"{each.passages:,}", *hours, *money, f"{each.storage_gb:,.1f}", each.bottleneck)
    out.print(table)


def _money(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:,.2f}"


def _between(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.low:,.1f} to {spread.high:,.1f}"
