"""An ablation as text: cells for tables, sentences, and the whole of `ablation.md`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.ablation.result import Ablation, Figures, Row, SplitQueries
from pipeline.encoder.systems import BASE
from pipeline.evaluation.markdown import escape
from pipeline.evaluation.significance import Comparison

_NONE = "-"


def header(result: Ablation, split: SplitQueries) -> list[str]:
    """Names of the columns; those of a reference, of stage 1 and of unseen passages only where there are such."""
    names = ["System", "Seeds", "nDCG@10", f"- {BASE}", "p"]
    names += ["- stage 1", "p"] if _two_stages(result, split) else []
    names += [] if result.reference == BASE else [f"- {result.reference}", "p"]
    names.append("p (Holm)")
    names += ["Unseen passages", f"- {BASE}"] if split.unseen < split.queries else []
    return [*names, "Train s"]


def _two_stages(result: Ablation, split: SplitQueries) -> bool:
    return any(row.figures[split.split].to_stage_1 for row in result.rows if split.split in row.figures)


def cells(result: Ablation, split: SplitQueries, intervals: bool = True) -> list[list[str]]:
    """The rows of one split under `header`, with or without the intervals of differences."""
    return [_row(result, split, row, intervals) for row in result.rows]


def _row(result: Ablation, split: SplitQueries, row: Row, intervals: bool) -> list[str]:
    name = f"{row.name} (as {row.same_as})" if row.same_as else row.name
    seeds = f"{row.seeds} of {len(result.seeds)}" if row.trained and row.errors else str(row.seeds or _NONE)
    found = row.figures.get(split.split)
    missing = ["failed", *[_NONE] * (len(header(result, split)) - 4)]
    figures = _cells(found, result, split, intervals) if found else missing
    return [name, seeds, *figures, _NONE if row.train_seconds is None else f"{row.train_seconds:,.0f}"]


def _cells(figures: Figures, result: Ablation, split: SplitQueries, intervals: bool) -> list[str]:
    spread = "" if figures.deviation is None else f" ± {figures.deviation:.4f}"
    found = [f"{figures.mean:.4f}{spread}", *_compared(figures.to_base, intervals)]
    found += _compared(figures.to_stage_1, intervals) if _two_stages(result, split) else []
    found += [] if result.reference == BASE else _compared(figures.to_reference, intervals)
    found.append(_NONE if figures.holm is None else _p(figures.holm))
    if split.unseen < split.queries:
        difference = figures.unseen_to_base
        found.append(_NONE if figures.unseen is None else f"{figures.unseen:.4f}")
        found.append(_NONE if difference is None else f"{difference.difference:+.4f}")
    return found


def _compared(comparison: Comparison | None, interval: bool) -> list[str]:
    if comparison is None:
        return [_NONE, _NONE]
    shown = f" ({comparison.low:+.4f} to {comparison.high:+.4f})" if interval else ""
    return [f"{comparison.difference:+.4f}{shown}", _p(comparison.p_value)]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def choice(result: Ablation) -> str:
    """Which row is best on dev, in a sentence."""
    best = next((row for row in result.rows if row.name == result.best), None)
    if best is None:
        return "No choice: no arm has figures of all seeds on dev queries."
    figures = best.figures["dev"]
    assert figures.to_base is not None, "it is trained"
    gain = f"{figures.mean:.4f}, {figures.to_base.difference:+.4f} to {BASE}, p {_p(figures.to_base.p_value)}"
    caution = "" if figures.to_base.difference > 0 else f" No arm is above {BASE}."
    return f"Best on dev: {best.name} (nDCG@10 {gain}).{caution}"


def notes(result: Ablation) -> list[str]:
    """What the columns mean, in sentences."""
    tested = sum(
        1 for row in result.rows if row.same_as is None and any(f.holm is not None for f in row.figures.values())
    )
    lines = [
        f"nDCG@10: mean ± sample standard deviation over the trainings with seed {', '.join(map(str, result.seeds))}. "
        "Differences, with 95 % bootstrap intervals, and p-values of two-sided randomisation tests are over queries, "
        "each averaged over seeds.",
    ]
    if tested:
        lines.append(f"p (Holm): against {result.reference}, corrected for {tested} comparisons per split.")
    lines += [
        f"Unseen passages, {each.split}: {each.unseen:,} of {each.queries:,} queries share no relevant passage, "
        "or near-duplicate of one, with a train query. Gains there are not memorised."
        for each in result.splits
        if each.unseen < each.queries
    ]
    return lines + ([f"Not run: {', '.join(result.not_run)}."] if result.not_run else [])


def failures(result: Ablation) -> list[str]:
    """One entry per row and seed that failed."""
    return [f"{row.name}, {error}" for row in result.rows for error in row.errors]


def render(result: Ablation) -> str:
    """The whole of `ablation.md`."""
    sections = [f"# Ablation on {escape(result.title)}", f"**{escape(choice(result))}**"]
    for split in result.splits:
        title = f"## {split.split}, {split.queries:,} judged {'query' if split.queries == 1 else 'queries'}"
        sections += [title, _table(header(result, split), cells(result, split))]
    sections += map(escape, notes(result))
    failed = failures(result)
    sections += ["## Failed", "\n".join(f"- {escape(each)}" for each in failed)] if failed else []
    return "\n\n".join(sections) + "\n"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = [":--"] + ["--:"] * (len(names) - 1)
    lines = [[escape(name) for name in names], rule, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
