"""Masks of a batch: which documents attract, repel, or say nothing."""

from dataclasses import replace

import torch

from pipeline.training.batch import Batch, Visit, assemble
from pipeline.training.examples import Example

VISIT = Visit()


def example(name: str, labelled: dict[str, str] | None = None, positives=(), negatives=(), mined=None) -> Example:
    labelled, mined = labelled or {}, mined or {}
    return Example(
        name,
        f"query {name}",
        tuple(labelled),
        tuple(labelled.values()),
        tuple(positives),
        tuple(negatives),
        tuple(mined),
        tuple(mined.values()),
    )


def marked(batch: Batch, row: int, mask: str) -> set[str]:
    values = getattr(batch.masks(slice(0, len(batch.queries))), mask)[row]
    return {text for text, on in zip(batch.documents, values.tolist(), strict=True) if on}


def test_own_documents_attract_and_synthetic_negatives_repel():
    rows = [example("a", {"1": "A"}, ["A+", "cot"], ["A-"]), example("b", {"2": "B"})]
    batch = assemble(rows, [0, 1], VISIT, seed=0, epoch=0)
    assert marked(batch, 0, "positive") == {"A", "A+", "cot"}
    assert marked(batch, 1, "positive") == {"B"}
    assert not marked(batch, 0, "ignore") and not marked(batch, 1, "ignore")
    assert batch.owner == [0, 0, 0, 0, 1]


def test_text_of_several_rows_is_one_column():
    """Twice the same negative would repel twice, and be embedded twice."""
    rows = [example("a", {"1": "A"}), example("b", {"1": "A"}, [], ["N"]), example("c", {"3": "C"}, [], ["N"])]
    batch = assemble(rows, [0, 1, 2], VISIT, seed=0, epoch=0)
    assert batch.documents == ["A", "N", "C"]
    assert marked(batch, 0, "positive") == marked(batch, 1, "positive") == {"A"}


def test_other_labelled_passage_of_the_query_is_no_negative():
    """a has two relevant passages and draws one; the other comes into the batch with b."""
    rows = [example("a", {"1": "A1", "2": "A2"}), example("b", {"2": "A2", "4": "A1"})]
    for epoch in range(6):
        batch = assemble(rows, [0, 1], VISIT, seed=0, epoch=epoch)
        assert marked(batch, 0, "positive") | marked(batch, 0, "ignore") == set(batch.documents)


def test_near_duplicate_of_a_labelled_passage_is_no_negative():
    """It goes by the same id under another text."""
    rows = [example("a", {"1": "A"}), example("b", {"1": "A, printed again"}), example("c", {"3": "C"})]
    batch = assemble(rows, [0, 1, 2], VISIT, seed=0, epoch=0)
    assert batch.documents == ["A", "C"]
    assert marked(batch, 1, "positive") == {"A"}


def test_text_equal_to_a_positive_is_ignored_whoever_brings_it():
    rows = [example("a", {"1": "A"}, ["same"]), example("b", {"2": "B"}, [], ["same"])]
    batch = assemble(rows, [0, 1], VISIT, seed=0, epoch=0)
    assert marked(batch, 0, "positive") == {"A", "same"}
    assert not marked(batch, 1, "ignore")  # b's own negative still repels b


def test_one_labelled_positive_per_visit_and_all_of_them_over_epochs():
    rows = [example("a", {"1": "A1", "2": "A2", "3": "A3"}), example("b", {"4": "B"})]
    drawn = {assemble(rows, [0, 1], VISIT, seed=0, epoch=epoch).documents[0] for epoch in range(30)}
    assert drawn == {"A1", "A2", "A3"}
    assert len(assemble(rows, [0, 1], VISIT, seed=0, epoch=0).documents) == 2


def test_mined_negatives_are_drawn_anew_and_are_no_negatives_of_those_they_answer():
    mined = {str(number): f"M{number}" for number in range(10, 16)}
    rows = [example("a", {"1": "A"}, mined=mined), example("b", {"12": "M12"})]
    seen = set()
    for epoch in range(20):
        batch = assemble(rows, [0, 1], Visit(hard_negatives=2), seed=0, epoch=epoch)
        repelled = {batch.documents[column] for column in batch.rows[0].repelled}
        assert len(repelled) == 2
        assert marked(batch, 1, "positive") == {"M12"}
        seen |= repelled
    assert seen == set(mined.values())


def ranked(row: Example, ids: str, orders=(), grades=()) -> Example:
    texts = tuple(f"text {i}" for i in ids)
    return replace(row, candidate_ids=tuple(ids), candidates=texts, orders=orders, grades=grades)


def test_order_ranks_its_depth_and_the_rest_of_it_competes():
    rows = [ranked(example("a"), "pqrs", orders=((2, 0, 3),)), ranked(example("b"), "xy", orders=((0, 1),))]
    batch = assemble(rows, [0, 1], Visit(contrast=False, candidates="order", depth=2), seed=0, epoch=0)
    assert batch.documents == ["text r", "text p", "text s", "text x", "text y"]
    masks = batch.masks(slice(0, 2))
    assert masks.order.tolist() == [[0, 1], [3, 4]]
    assert not masks.preference_ignore.any()


def test_candidate_that_was_not_drawn_is_no_competitor():
    """q is a candidate of a, but not of this order: whether it is worse than the others is not known here."""
    rows = [ranked(example("a"), "pqr", orders=((0, 2),)), ranked(example("b"), "qx", orders=((0, 1),))]
    batch = assemble(rows, [0, 1], Visit(contrast=False, candidates="order"), seed=0, epoch=0)
    assert marked(batch, 0, "preference_ignore") == {"text q"}
    assert not marked(batch, 1, "preference_ignore")


def test_labelled_passage_that_lost_its_comparison_still_competes():
    row = ranked(replace(example("a", {"p": "text p"})), "pq", orders=((1, 0),))
    batch = assemble([row], [0], Visit(contrast=False, candidates="order"), seed=0, epoch=0)
    masks = batch.masks(slice(0, 1))
    assert [batch.documents[column] for column in masks.order[0]] == ["text q", "text p"]
    assert not masks.preference_ignore.any()


def test_every_order_has_its_turn_before_any_twice():
    row = ranked(example("a"), "pqr", orders=((0, 1), (1, 2), (0, 2)))
    visit = Visit(contrast=False, candidates="order")
    drawn = [assemble([row], [0], visit, seed=0, epoch=epoch).rows[0].order for epoch in range(3)]
    texts = [assemble([row], [0], visit, seed=0, epoch=epoch).documents for epoch in range(3)]
    assert {tuple(t) for t in texts} == {("text p", "text q"), ("text q", "text r"), ("text p", "text r")}
    assert drawn == [(0, 1)] * 3


def test_documents_of_the_contrastive_loss_do_not_compete_with_preferences_nor_these_with_them():
    row = ranked(example("a", {"1": "A"}, ["A+"], ["A-"]), "pq", orders=((0, 1),))
    batch = assemble([row], [0], Visit(contrast=True, candidates="order"), seed=0, epoch=0)
    assert marked(batch, 0, "preference_ignore") == {"A", "A+", "A-"}
    assert marked(batch, 0, "ignore") == {"text p", "text q"}


def test_grades_are_those_of_the_row_and_absent_elsewhere():
    rows = [ranked(example("a"), "pq", grades=(3.0, 0.0)), ranked(example("b"), "qr", grades=(1.0, 2.0))]
    grades = assemble(rows, [0, 1], Visit(contrast=False, candidates="list"), seed=0, epoch=0).masks(slice(0, 2)).grades
    assert torch.equal(grades.nan_to_num(-1), torch.tensor([[3.0, 0.0, -1.0], [-1.0, 1.0, 2.0]]))


def test_synthetic_weight_is_for_synthetic_positives_only():
    batch = assemble([example("a", {"1": "A"}, ["A+"])], [0], VISIT, seed=0, epoch=0)
    assert batch.masks(slice(0, 1), synthetic_weight=0.25).weights.tolist() == [[1.0, 0.25]]


def test_near_duplicates_in_a_list_are_one_column_with_the_better_grade():
    """They go by one id; where another row brings its text in first, both would be that column."""
    row = ranked(example("a"), "pqr", grades=(3.0, 2.0, 1.0))
    row = replace(row, candidate_ids=("p", "p", "r"))
    batch = assemble([example("b", {"p": "text q"}), row], [0, 1], Visit(candidates="list"), seed=0, epoch=0)
    assert batch.documents == ["text q", "text r"]
    assert batch.rows[1].graded == ((0, 3.0), (1, 1.0))
    assert batch.rows[1].listed == (0, 1)


def test_mined_near_duplicate_of_another_rows_label_is_no_negative_of_that_row():
    rows = [example("a", {"1": "A"}, mined={"2": "B, printed again"}), example("b", {"2": "B"})]
    batch = assemble(rows, [0, 1], Visit(hard_negatives=1), seed=0, epoch=0)
    assert batch.documents == ["A", "B, printed again"]
    assert marked(batch, 1, "positive") == {"B, printed again"}


def test_rows_of_one_query_do_not_repel_each_other_s_positives():
    """A table with a row per positive, as sentence-transformers has it, would train against its own labels."""
    rows = [Example("q", "query", ("1",), ("one",)), Example("q", "query", ("2",), ("two",)), example("r", {"3": "3"})]
    batch = assemble(rows, range(3), Visit(), seed=0, epoch=0)
    assert marked(batch, 0, "ignore") == {"two"} and marked(batch, 1, "ignore") == {"one"}
    assert marked(batch, 2, "ignore") == set()


def test_passage_under_both_headings_attracts_when_drawn_and_never_repels():
    row = Example("q", "query", ("a", "b"), ("A", "B"), mined_ids=("b", "c"), mined=("B", "C"))
    for epoch in range(6):
        batch = assemble([row], [0], Visit(hard_negatives=2), seed=0, epoch=epoch)
        repelled = {batch.documents[column] for column in batch.rows[0].repelled}
        assert repelled == {"C"} and "B" in marked(batch, 0, "positive") | marked(batch, 0, "ignore")
