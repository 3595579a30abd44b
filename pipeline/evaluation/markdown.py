"""The report as Markdown for people. Text that comes from data is escaped and cannot change the layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pipeline.evaluation.metrics import Means
from pipeline.evaluation.node_plot import node_plot
from pipeline.evaluation.report import TABLE_HEADER, Origin, QueryChange, Report, StageCost, table_rows
from pipeline.evaluation.reranking import RerankedFigures, Reranking
from pipeline.evaluation.significance import Comparison

_LONGEST_QUERY = 200
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~])")


def escape(text: str) -> str:
    """One line in which no character has a meaning to Markdown, HTML or a table."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()).replace("&", "&amp;"))


def render(report: Report) -> str:
    """The whole of `report.md`."""
    sections = [
        f"# {escape(report.title)}\n\n{report.passages:,} passages.",
        _results(report),
        _verdict(report),
        _reranker(report.reranking),
        _origins(report.origins),
        _llm(report),
        _training(report),
        _changes("Biggest gains", report.changes.encoder, report.changes.gains),
        _changes("Biggest losses", report.changes.encoder, report.changes.losses),
        _stages(report),
        _nodes(report.stages),
        _section("Versions", _table(["Package", "Version"], sorted(report.versions.items()))),
    ]
    return "\n\n".join(each for each in sections if each) + "\n"


def summary(report: Report) -> list[str]:
    """What a run comes to, in a few plain lines for a terminal."""
    lines = [f"nDCG@10 on {split}, {which}: {_difference(each)}" for which, split, each in _compared(report)]
    if caution := _caution(report):
        lines.append(caution.replace("**", ""))
    lines.append(f"Verdict: {report.gate.verdict}. {report.gate.reason}")
    if report.reranking is not None:
        lines.append(f"Reranker: {report.reranking.gate.verdict}. {report.reranking.gate.reason}")
    return [*lines, _spent(report)]


def _section(title: str, *paragraphs: str) -> str:
    return "\n\n".join((f"## {title}", *(each for each in paragraphs if each)))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """First column to the left, figures to the right."""
    rule = [":--"] + ["--:"] * (len(header) - 1)
    lines = [header, rule, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _results(report: Report) -> str:
    notes = []
    for split in ("dev", "test"):
        means = next((m for each in report.systems if (m := getattr(each, split)) is not None), None)
        if means is None:
            notes.append(f"{split}: no judged queries.")
            continue
        note = f"{split}: mean over {_count(means.queries, 'judged query', 'judged queries')}"
        if means.without_relevant:
            note += f", {means.without_relevant:,} of them without a relevant passage (0 for every system)"
        notes.append(note + ".")
    if report.top_k < 100:
        notes.append(f"Systems return {report.top_k} hits per query, so recall@100 sees no more than these.")
    return _section("Results", _table(TABLE_HEADER, table_rows(report.systems)), " ".join(notes), _caution(report))


def _caution(report: Report) -> str:
    origin = next((each for each in report.origins if each.split == "test"), None)
    if origin is None or not origin.judgments_generated:
        return ""
    total = origin.judgments_given + origin.judgments_generated
    share = "All" if not origin.judgments_given else f"{origin.judgments_generated:,} of the {total:,}"
    return (
        f"**{share} test judgments are generated, not made by people. These figures only compare the systems "
        "with each other; they do not say how well users would be served and cannot be held against figures "
        "from elsewhere.**"
    )


def _verdict(report: Report) -> str:
    differences = [f"- {which}, {split}: {_difference(each)}" for which, split, each in _compared(report)]
    return _section(
        "Encoders compared",
        f"**Verdict: {report.gate.verdict}.** {escape(report.gate.reason)}",
        "Differences in nDCG@10:" if differences else "",
        "\n".join(differences),
        "Each p-value is for its own line: of several lines, one is more easily small by chance."
        if len(report.contrasts) > 1
        else "",
    )


RERANKED_HEADER = ["First stage", "depth", "dev nDCG@10", "change", "p", "test nDCG@10", "change", "p", "ms per query"]


def _reranker(reranking: Reranking | None) -> str:
    """First stages and the same reranked, side by side."""
    if reranking is None:
        return ""
    learnt = ", ".join(f"{count:,} {teacher}" for teacher, count in reranking.lists.items())
    sources = f" Candidates from {', '.join(reranking.sources)}." if reranking.sources else ""
    return _section(
        "Reranker",
        f"**Verdict: {reranking.gate.verdict}.** {escape(reranking.gate.reason)}",
        f"Learnt from lists: {learnt}.{sources} A change is against the same first stage as it is.",
        _table(RERANKED_HEADER, map(reranked_row, reranking.rows)),
    )


def reranked_row(row: RerankedFigures) -> list[str]:
    """One row of the table of reranked first stages."""
    return [
        row.first_stage,
        f"{row.depth}",
        *_changed(row.dev, row.dev_change),
        *_changed(row.test, row.test_change),
        f"{row.milliseconds:,.1f}",
    ]


def _changed(means: Means | None, change: Comparison | None) -> list[str]:
    if means is None or change is None:
        return ["-", "-", "-"]
    p_value = "< 0.001" if change.p_value < 0.001 else f"{change.p_value:.3f}"
    return [f"{means.ndcg_at_10:.3f}", f"{change.difference:+.3f}", p_value]


def _compared(report: Report) -> list[tuple[str, str, Comparison]]:
    """What is subtracted from what, the split, and the outcome, where there is one."""
    return [
        (f"{each.encoder} - {each.baseline}", split, comparison)
        for each in report.contrasts
        for split, comparison in (("dev", each.dev), ("test", each.test))
        if comparison is not None
    ]


def _difference(comparison: Comparison) -> str:
    p_value = "p < 0.001" if comparison.p_value < 0.001 else f"p = {comparison.p_value:.3f}"
    interval = f"95 % interval {comparison.low:+.3f} to {comparison.high:+.3f}"
    queries = _count(comparison.queries, "query", "queries")
    tally = f"better on {comparison.better:,}, worse on {comparison.worse:,} of {queries}"
    return f"{comparison.difference:+.3f} ({p_value}, {interval}; {tally})"


def _origins(origins: Sequence[Origin]) -> str:
    header = ["Split", "queries given", "queries generated", "judgments given", "judgments generated"]
    rows = []
    for each in origins:
        queries = (each.queries_given, each.queries_generated)
        judgments = (each.judgments_given, each.judgments_generated)
        rows.append([each.split, *(f"{count:,}" for count in (*queries, *judgments))])
    return _section("Queries and judgments", _table(header, rows)) if rows else ""


def _llm(report: Report) -> str:
    rows = [(name, f"{count:,}") for name, count in report.llm.outcomes.items()]
    return _section("LLM calls", _spent(report), _table(["Outcome", "count"], rows) if rows else "")


def _spent(report: Report) -> str:
    use = report.llm
    return (
        f"LLM, over all runs: {_count(use.requests_sent, 'request')} sent, {use.answered:,} answered; "
        f"{use.tokens_in:,} tokens in, {use.tokens_out:,} tokens out."
    )


def _training(report: Report) -> str:
    if not report.trainings:
        return _section("Training", "No training in this run.")
    outcomes = []
    for each in report.trainings:
        kept = "" if each.chosen_step is None else f"; the weights of step {each.chosen_step:,} were kept"
        outcomes.append(f"- {each.encoder}: {_count(each.steps, 'step')}{kept}.")
    rows = [
        (each.encoder, f"{point.step:,}", f"{point.ndcg_at_10:.3f}")
        for each in report.trainings
        for point in each.dev_curve
    ]
    header = ["Encoder", "step", "nDCG@10 on dev, sampled passages"]
    return _section("Training", "\n".join(outcomes), _table(header, rows) if rows else "")


def _changes(title: str, encoder: str, changes: Sequence[QueryChange]) -> str:
    rows = [(_shortened(each.text), f"{each.base:.3f}", f"{each.trained:.3f}") for each in changes]
    return _section(
        title,
        f"Test queries, {encoder} against base.",
        _table(["Query", "base nDCG@10", f"{encoder} nDCG@10"], rows) if rows else "None.",
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_QUERY else text[: _LONGEST_QUERY - 1] + "…"


def _stages(report: Report) -> str:
    header = ["Stage", "seconds", "peak memory (MB)", "spilled (MB)", "quarantined rows"]
    rows = [
        (each.stage, f"{each.seconds:,.1f}", *(f"{number:,.0f}" for number in figures))
        for each in report.stages
        for figures in [(each.peak_memory_mb, each.spilled_mb, each.quarantined)]
    ]
    return _section("Stages", _table(header, rows))


def _nodes(stages: Sequence[StageCost]) -> str:
    plotted = node_plot(stages)
    return _section("Nodes", plotted.legend, f"```\n{plotted.text}\n```") if plotted is not None else ""


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
