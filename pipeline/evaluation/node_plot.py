"""How many nodes of each group there were while a run went on, as text."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.evaluation.report import StageCost

_COLUMNS, _BARS = 72, " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Plot:
    """A line per group, as high as it had nodes, and one that says in letters which stage it was."""

    text: str
    legend: str


def node_plot(stages: Sequence[StageCost]) -> Plot | None:
    """Of stages one after the other; None where there never was more than one node."""
    seen = [counts for stage in stages for _, counts in stage.nodes]
    if all(sum(counts.values()) <= 1 for counts in seen):
        return None
    step = max(sum(stage.seconds for stage in stages) / _COLUMNS, 1.0)
    columns = [(number, counts) for number, stage in enumerate(stages) for counts in _sampled(stage, step)]
    groups = sorted({group for counts in seen for group in counts})
    width = max(len(name) for name in (*map(_named, groups), "stage"))
    lines = []
    for group in groups:
        most = max(counts.get(group, 0) for _, counts in columns)
        bars = "".join(_BARS[-(-counts.get(group, 0) * (len(_BARS) - 1) // max(most, 1))] for _, counts in columns)
        lines.append(f"{_named(group):{width}}  {bars}  at most {most}")
    letters = "".join(_letter(number) for number, _ in columns)
    legend = ", ".join(f"{_letter(number)} {stage.stage}" for number, stage in enumerate(stages))
    return Plot("\n".join([*lines, f"{'stage':{width}}  {letters}"]), f"A column is {step:.1f} s: {legend}.")


def _letter(number: int) -> str:
    return string.ascii_letters[number % len(string.ascii_letters)]


def _named(group: str) -> str:
    return group or "nodes"


def _sampled(stage: StageCost, step: float) -> Iterator[Mapping[str, int]]:
    """The most nodes of each group, step by step; a short stage has a step of its own."""
    for number in range(max(1, round(stage.seconds / step))):
        start, end = number * step, (number + 1) * step
        before = [counts for seconds, counts in stage.nodes if seconds <= start]
        within = [counts for seconds, counts in stage.nodes if start < seconds <= end]
        told = [*before[-1:], *within] or [counts for _, counts in stage.nodes[:1]]
        yield {group: max(counts.get(group, 0) for counts in told) for counts in told for group in counts}
