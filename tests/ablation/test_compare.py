"""The table: means and spread over seeds, Holm's correction, what counts as unseen, which row wins."""

import statistics

import pyarrow as pa
import pytest

from pipeline import records
from pipeline.ablation import markdown
from pipeline.ablation.compare import System, best_on_dev, holm, rows_of
from pipeline.ablation.measure import Judged, Trial, unseen_queries
from pipeline.ablation.result import Ablation, SplitQueries
from pipeline.evaluation.significance import compare

IDS = [f"q{n:02d}" for n in range(12)]
BASE = [0.5, 0.2, 0.4, 0.1, 0.6, 0.3, 0.5, 0.2, 0.4, 0.1, 0.6, 0.3]


def judged(unseen: int = len(IDS)) -> Judged:
    rows = [{"query_id": each, "text": each, "split": "dev", "kind": "given"} for each in IDS]
    queries = pa.Table.from_pylist(rows, schema=records.QUERY)
    return Judged("queries/1", queries, records.JUDGMENT.empty_table(), frozenset(IDS[:unseen]))


def trial(index: str, gain: float, seconds: float = 0.0, of: list[str] = IDS) -> Trial:
    """`gain` more than base on the queries of `of`."""
    return Trial(index, seconds, {q: value + gain * (q in of) for q, value in zip(IDS, BASE, strict=True)})


def systems() -> list[System]:
    return [
        System("base", False, (trial("base", 0.0),)),
        System("a", True, (trial("a0", 0.10, 4.0), trial("a1", 0.20, 6.0))),
        System("b", True, (trial("b0", 0.12, 1.0, IDS[:6]), trial("b1", 0.16, 1.0, IDS[:6]))),
        System("b again", True, (trial("b0", 0.12, 1.0, IDS[:6]), trial("b1", 0.16, 1.0, IDS[:6]))),
        System("c", True, (trial("c0", 0.4),), ("seed 1: no memory | left",)),
        System("d", True, (), ("seed 0: gone", "seed 1: gone")),
    ]


def result(reference: str = "base", unseen: int = len(IDS)) -> Ablation:
    rows = rows_of(systems(), judged(unseen), ["dev"], reference, 2000, 0)
    split = SplitQueries("dev", len(IDS), unseen)
    return Ablation("x", (0, 1), reference, (split,), rows, best_on_dev(rows, 2), ("e",))


def test_holm_is_the_textbook_procedure():
    """m, m - 1, ... times the sorted values, never falling, never above 1, back in the order that was given."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]


def test_mean_spread_and_tests_are_over_the_right_axis():
    """Spread is over seeds, tests over queries: pooling seeds with queries would make everything significant."""
    figures = result().rows[1].figures["dev"]
    assert figures.mean == pytest.approx(statistics.fmean(BASE) + 0.15)
    assert figures.deviation == pytest.approx(statistics.stdev([0.1, 0.2]))
    averaged = [value + 0.15 for value in BASE]
    assert figures.to_base == compare(BASE, averaged, 2000, 0)
    assert figures.to_base is not None and figures.to_base.queries == len(IDS)
    assert result().rows[1].train_seconds == 5.0
    single = next(row for row in result().rows if row.name == "c").figures["dev"]
    assert single.deviation is None, "one seed has no spread"


def test_a_repeated_encoder_counts_once_and_the_reference_not_at_all():
    """Counting an encoder twice would punish every other row."""
    rows = {row.name: row for row in result("a").rows}
    assert rows["b again"].same_as == "b" and rows["b"].same_as is None
    assert rows["a"].figures["dev"].to_reference is None and rows["base"].figures["dev"].to_reference is None
    of_b, of_c = (rows[name].figures["dev"] for name in ("b", "c"))
    assert of_b.to_reference is not None and of_c.to_reference is not None
    expected = holm([of_b.to_reference.p_value, of_c.to_reference.p_value])
    assert [of_b.holm, of_c.holm] == expected
    assert rows["b again"].figures["dev"].holm == of_b.holm
    assert result("b again").rows[2].figures["dev"].to_reference is None, "b is its reference's own encoder"


def test_alignment_is_held_against_its_own_stage_1():
    """Held against base alone, a second stage that takes away would still look like a gain."""
    tuned, aligned = trial("t", 0.2), trial("s", 0.15)
    chosen = [*systems(), System("x", True, (tuned,)), System("x + alignment", True, (aligned,), stage_1="x")]
    rows = rows_of(chosen, judged(), ["dev"], "base", 500, 0)
    of_aligned, others = rows[-1].figures["dev"], [row.figures["dev"] for row in rows[:-1] if row.figures]
    assert of_aligned.to_stage_1 is not None and of_aligned.to_stage_1.difference == pytest.approx(-0.05)
    assert of_aligned.to_base is not None and of_aligned.to_base.difference > 0
    assert all(each.to_stage_1 is None for each in others)


def test_the_reference_that_was_not_measured_leaves_no_comparison():
    rows = rows_of(systems(), judged(), ["dev"], "e", 100, 0)
    assert all(row.figures["dev"].to_reference is None for row in rows if row.figures)


def test_a_row_that_lacks_a_seed_cannot_win():
    """c is far above all others, on the one seed that did not fail."""
    assert result().best == "a"
    assert "Best on dev: a (nDCG@10" in markdown.choice(result())


def test_unseen_passages_show_memorised_gains():
    """b gains only on the first six queries; on the last three of them, and six more, the gain is smaller."""
    gains = dict(zip(IDS, [0.14] * 6 + [0.0] * 6, strict=True))
    later = frozenset(IDS[3:])
    rows = rows_of(systems(), Judged("q", judged().queries, judged().judgments, later), ["dev"], "base", 100, 0)
    figures = rows[2].figures["dev"]
    assert figures.unseen == pytest.approx(statistics.fmean(BASE[3:]) + statistics.fmean(gains[q] for q in later))
    assert figures.unseen_to_base is not None and figures.unseen_to_base.queries == 9
    assert figures.unseen_to_base.difference == pytest.approx(0.14 * 3 / 9)


def test_a_query_is_seen_through_near_duplicates_but_not_through_irrelevant_passages():
    def rows(schema: pa.Schema, *values: tuple) -> pa.Table:
        return pa.Table.from_pylist([dict(zip(schema.names, each, strict=True)) for each in values], schema=schema)

    splits = {
        "t1": "train",
        "t2": "train",
        "same": "dev",
        "twin": "test",
        "other": "dev",
        "weak": "dev",
        "none": "test",
    }
    queries = rows(records.QUERY, *((q, q, split, "given") for q, split in splits.items()))
    grades = [("t1", "p1", 1), ("t2", "p3", 0), ("same", "p1", 2), ("twin", "p2", 1), ("other", "p3", 1)]
    judgments = rows(records.JUDGMENT, *grades, ("weak", "p1", 0), ("weak", "p4", 1))
    duplicates = rows(records.DUPLICATE, ("p1", "p0", 1.0), ("p2", "p0", 0.95))
    assert unseen_queries(queries, judgments, duplicates) == {"other", "weak", "none"}


@pytest.mark.parametrize(("reference", "unseen"), [("base", 12), ("a", 12), ("base", 9), ("a", 0)])
def test_every_row_of_the_table_has_every_column(reference: str, unseen: int):
    """A missing cell would shift figures under the wrong heading."""
    found = result(reference, unseen)
    names = markdown.header(found, found.splits[0])
    rows = {row[0]: row for row in markdown.cells(found, found.splits[0])}
    assert {len(row) for row in rows.values()} == {len(names)}
    assert ("Unseen passages" in names) == (unseen < 12) and ("- a" in names) == (reference == "a")
    assert rows["d"][1:3] == ["0 of 2", "failed"] and rows["c"][1] == "1 of 2"
    assert rows["b again (as b)"][1:] == rows["b"][1:] and rows["b"][-1] == "1"
    assert rows["a"][2] == "0.5000 ± 0.0707"


def test_the_report_survives_its_file_and_says_what_failed():
    found = result("a", 9)
    assert Ablation.from_json(found.to_json()) == found and found.failed
    text = markdown.render(found)
    assert "- c, seed 1: no memory \\| left" in text and "Not run: e." in text
    assert "corrected for 2 comparisons" in text and "9 of 12 queries share no relevant passage" in text
