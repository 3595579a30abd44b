"""The report: what it says, and that data cannot break it."""

import dataclasses
import json

import pyarrow as pa
import pytest

from pipeline import records
from pipeline.evaluation.gate import Decision
from pipeline.evaluation.markdown import escape, render, summary
from pipeline.evaluation.metrics import PER_QUERY, Means, Scores
from pipeline.evaluation.report import (
    TABLE_HEADER,
    Changes,
    Contrast,
    DevScore,
    LlmUse,
    Origin,
    QueryChange,
    Report,
    StageCost,
    SystemFigures,
    Training,
    changes,
    origins,
    table_rows,
)
from pipeline.evaluation.significance import Comparison

BASE = Means(0.6123, 0.58, 0.9, 40, 0)
TUNED = Means(0.6999, 0.65, 0.95, 40, 0)
REPORT = Report(
    title="Manuals | 2025",
    passages=12_345,
    top_k=100,
    systems=(SystemFigures("base", BASE, None), SystemFigures("BM25 + tuned (RRF)", TUNED, TUNED)),
    contrasts=(
        Contrast(
            "tuned",
            "base",
            dev=Comparison(40, 0.0876, 0.0002, 0.031, 0.14, 20, 5),
            test=Comparison(40, -0.01, 0.25, -0.03, 0.01, 5, 7),
        ),
    ),
    gate=Decision("ship", "tuned", "Tuned is above base."),
    origins=(
        Origin("train", {"crop": 10, "given": 30}, 33, 10),
        Origin("test", {"given": 40}, 52, 0),
    ),
    llm=LlmUse(1_600, 1_590, 1_000_000, 200_000, {"ok": 1_500, "relabelled": 90}),
    trainings=(Training("tuned", 120, (DevScore(40, 0.6), DevScore(80, 0.65)), chosen_step=80),),
    changes=Changes("tuned", (QueryChange("q1", "how | to\n| # break `a` <b>table</b>", 0.0, 1.0),), ()),
    stages=(StageCost("corpus", 12.34, 345.6, 7, spilled_mb=1200.0),),
    versions={"ray": "2.60.0", "faiss": "1.12"},
)

ALIGNED = dataclasses.replace(
    REPORT,
    systems=(
        *REPORT.systems,
        SystemFigures("aligned", TUNED, TUNED),
        SystemFigures("BM25 + aligned (RRF)", TUNED, None),
    ),
    contrasts=(
        *REPORT.contrasts,
        Contrast("aligned", "base", dev=Comparison(40, 0.1, 0.01, 0.02, 0.2, 21, 4), test=None),
        Contrast("aligned", "tuned", dev=None, test=Comparison(40, 0.02, 0.4, -0.01, 0.05, 8, 6)),
    ),
    gate=Decision("ship", "aligned", "Aligned is above both."),
    trainings=(*REPORT.trainings, Training("aligned", 30, (DevScore(10, 0.66),), chosen_step=10)),
    changes=Changes("aligned", (), (QueryChange("q2", "how to sleep", 0.5, 0.25),)),
)


def rows_of(markdown: str, heading: str) -> list[list[str]]:
    """Cells of the table below a heading, split at pipes that are not escaped."""
    lines = markdown.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()
    table = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")] for line in table]


def test_json_holds_everything_and_comes_back_equal():
    assert Report.from_json(REPORT.to_json()) == REPORT
    assert Report.from_json(ALIGNED.to_json()) == ALIGNED
    content = json.loads(REPORT.to_json())
    assert content.keys() == {field.name for field in dataclasses.fields(Report)}
    assert content["systems"][0]["test"] is None and content["gate"]["verdict"] == "ship"
    aligned = json.loads(ALIGNED.to_json())
    assert [(each["encoder"], each["baseline"]) for each in aligned["contrasts"]] == [
        ("tuned", "base"),
        ("aligned", "base"),
        ("aligned", "tuned"),
    ]
    assert aligned["gate"]["chosen"] == aligned["changes"]["encoder"] == "aligned"


def test_rows_keep_the_order_and_show_missing_splits():
    rows = table_rows(REPORT.systems)
    assert rows[0] == ["base", "0.612", "0.580", "0.900", "-", "-", "-"]
    assert rows[1][0] == "BM25 + tuned (RRF)" and len(rows[1]) == len(TABLE_HEADER)
    assert rows_of(render(REPORT), "Results")[2:] == rows


def test_a_query_cannot_break_its_table():
    """One pipe or line break in a query shifts every figure behind it into another column."""
    row = rows_of(render(REPORT), "Biggest gains")[2]
    assert row[1:] == ["0.000", "1.000"]
    assert row[0] == "how \0 to \0 # break \\`a\\` \\<b\\>table\\</b\\>"


def test_escapes_cannot_be_undone_by_a_backslash_in_the_text():
    assert escape("a\\|b") == "a\\\\\\|b"
    assert escape("a\r\nb\u2028c &lt;") == "a b c &amp;lt;"


@pytest.mark.parametrize("report", [REPORT, ALIGNED])
def test_every_row_has_as_many_cells_as_its_header(report: Report):
    markdown = render(report)
    headings = [line[3:] for line in markdown.splitlines() if line.startswith("## ")]
    assert headings == [
        "Results",
        "Encoders compared",
        "Queries and judgments",
        "LLM calls",
        "Training",
        "Biggest gains",
        "Biggest losses",
        "Stages",
        "Versions",
    ]
    for heading in headings:
        assert len({len(row) for row in rows_of(markdown, heading)}) <= 1, heading


def test_the_comparison_carries_its_uncertainty():
    markdown = render(REPORT)
    assert (
        "- tuned - base, dev: +0.088 (p < 0.001, 95 % interval +0.031 to +0.140; "
        "better on 20, worse on 5 of 40 queries)"
    ) in markdown
    assert (
        "- tuned - base, test: -0.010 (p = 0.250, 95 % interval -0.030 to +0.010; "
        "better on 5, worse on 7 of 40 queries)"
    ) in markdown
    assert "**Verdict: ship.** Tuned is above base." in markdown
    assert "Each p-value" not in markdown


def test_every_trained_encoder_is_compared_with_those_before_it():
    """An alignment that is above base but not above tuned would look like a success."""
    lines = [line for line in render(ALIGNED).splitlines() if line.startswith("- ") and "interval" in line]
    shown = [
        ("tuned - base, dev", "+0.088"),
        ("tuned - base, test", "-0.010"),
        ("aligned - base, dev", "+0.100"),
        ("aligned - tuned, test", "+0.020"),
    ]
    assert [tuple(line[2:].split(" (")[0].split(": ")) for line in lines] == shown
    assert "Each p-value is for its own line" in render(ALIGNED)
    terminal = [line for line in summary(ALIGNED) if line.startswith("nDCG@10 on ")]
    assert [line.split(": ")[0] for line in terminal] == [
        "nDCG@10 on dev, tuned - base",
        "nDCG@10 on test, tuned - base",
        "nDCG@10 on dev, aligned - base",
        "nDCG@10 on test, aligned - tuned",
    ]


def test_both_trainings_are_shown_apart():
    markdown = render(ALIGNED)
    assert "- tuned: 120 steps; the weights of step 80 were kept." in markdown
    assert "- aligned: 30 steps; the weights of step 10 were kept." in markdown
    assert rows_of(markdown, "Training")[2:] == [
        ["tuned", "40", "0.600"],
        ["tuned", "80", "0.650"],
        ["aligned", "10", "0.660"],
    ]


def test_gains_and_losses_say_whose_they_are():
    markdown = render(ALIGNED)
    assert rows_of(markdown, "Biggest losses")[0] == ["Query", "base nDCG@10", "aligned nDCG@10"]
    assert rows_of(markdown, "Biggest losses")[2] == ["how to sleep", "0.500", "0.250"]
    assert markdown.count("Test queries, aligned against base.") == 2


@pytest.mark.parametrize(
    ("given", "generated", "start"),
    [(0, 52, "All test judgments are generated"), (40, 12, "12 of the 52 test judgments are generated")],
)
def test_generated_test_judgments_are_owned_up_to(given: int, generated: int, start: str):
    origin = Origin("test", {"crop": 40}, given, generated)
    assert f"**{start}" in render(dataclasses.replace(REPORT, origins=(origin,)))
    assert "only compare the systems" not in render(REPORT)


def test_counts_and_costs_are_shown():
    markdown = render(REPORT)
    assert "# Manuals \\| 2025\n\n12,345 passages." in markdown
    assert rows_of(markdown, "Queries and judgments")[2] == ["train", "30", "10", "33", "10"]
    assert (
        "LLM, over all runs: 1,600 requests sent, 1,590 answered; 1,000,000 tokens in, 200,000 tokens out." in markdown
    )
    assert rows_of(markdown, "LLM calls")[2:] == [["ok", "1,500"], ["relabelled", "90"]]
    assert "- tuned: 120 steps; the weights of step 80 were kept." in markdown
    assert rows_of(markdown, "Training")[2:] == [["tuned", "40", "0.600"], ["tuned", "80", "0.650"]]
    assert rows_of(markdown, "Stages")[2:] == [["corpus", "12.3", "346", "1,200", "7"]]
    assert rows_of(markdown, "Versions")[2:] == [["faiss", "1.12"], ["ray", "2.60.0"]]


def test_what_limits_the_figures_is_said_beside_them():
    barren = SystemFigures("base", dataclasses.replace(BASE, without_relevant=3), None)
    markdown = render(dataclasses.replace(REPORT, systems=(barren,), top_k=50))
    assert "dev: mean over 40 judged queries, 3 of them without a relevant passage" in markdown
    assert "test: no judged queries." in markdown
    assert "Systems return 50 hits per query, so recall@100 sees no more than these." in markdown


def test_an_almost_empty_run_still_renders():
    empty = dataclasses.replace(
        REPORT,
        systems=(),
        contrasts=(),
        origins=(),
        llm=LlmUse(0, 0, 0, 0, {}),
        trainings=(),
        changes=Changes("tuned", (), ()),
        stages=(),
        versions={},
    )
    assert "No training in this run." in render(empty)
    assert Report.from_json(empty.to_json()) == empty


def test_long_queries_are_shortened_in_markdown_only():
    long = dataclasses.replace(REPORT, changes=Changes("tuned", (QueryChange("q", "x" * 1000, 0.0, 1.0),), ()))
    assert "x" * 199 + "…" in render(long) and "x" * 200 not in render(long)
    assert "x" * 1000 in long.to_json()


def scores(system: str, **ndcg: float) -> Scores:
    rows = [
        {"system": system, "query_id": query_id, "ndcg_at_10": value, "rr_at_10": 0.0, "recall_at_100": 0.0}
        for query_id, value in sorted(ndcg.items())
    ]
    return Scores(system, pa.Table.from_pylist(rows, schema=PER_QUERY), None)


def test_gains_and_losses_are_the_largest_and_not_mixed():
    texts = {query_id: f"text of {query_id}" for query_id in "abcdef"}
    base = scores("base", a=0.5, b=0.5, c=0.5, d=0.5, e=0.5, f=0.5)
    tuned = scores("tuned", a=0.5, b=0.6, c=1.0, d=0.6, e=0.0, f=0.4)
    found = changes(base, tuned, texts, count=2)
    assert found.encoder == "tuned"
    assert [each.query_id for each in found.gains] == ["c", "b"]
    assert found.losses == (QueryChange("e", "text of e", 0.5, 0.0), QueryChange("f", "text of f", 0.5, 0.4))
    every = changes(base, tuned, texts)
    assert (len(every.gains), len(every.losses)) == (3, 2)


def test_judgments_are_given_or_generated_as_their_query():
    queries = [
        ("q1", "test", "given"),
        ("q2", "test", "crop"),
        ("q3", "train", "claim"),
        ("q4", "train", "claim"),
    ]
    judged = ["q1", "q1", "q2", "q3"]
    found = origins(
        pa.Table.from_pylist(
            [{"query_id": q, "text": "", "split": split, "kind": kind} for q, split, kind in queries],
            schema=records.QUERY,
        ),
        pa.Table.from_pylist(
            [{"query_id": q, "passage_id": str(n), "grade": 1} for n, q in enumerate(judged)],
            schema=records.JUDGMENT,
        ),
    )
    assert found == (Origin("train", {"claim": 2}, 0, 1), Origin("test", {"crop": 1, "given": 1}, 2, 1))
    assert (found[1].queries_given, found[1].queries_generated) == (1, 1)
