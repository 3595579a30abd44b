"""Masks of a batch: which documents attract, repel, or say nothing."""

from pipeline.training.batch import assemble
from pipeline.training.examples import Example


def example(name: str, labelled: dict[str, str] | None = None, positives=(), negatives=()) -> Example:
    labelled = labelled or {}
    return Example(name, f"query {name}", tuple(labelled), tuple(labelled.values()), tuple(positives), tuple(negatives))


def columns(batch, row: int, mask: str) -> set[str]:
    return {text for text, on in zip(batch.documents, getattr(batch, mask)[row].tolist(), strict=True) if on}


def test_own_documents_attract_and_synthetic_negatives_repel():
    rows = [example("a", {"1": "A"}, ["A+", "cot"], ["A-"]), example("b", {"2": "B"})]
    batch = assemble(rows, [0, 1], seed=0, epoch=0)
    assert columns(batch, 0, "positive") == {"A", "A+", "cot"}
    assert columns(batch, 1, "positive") == {"B"}
    assert not batch.ignore.any()
    assert batch.owner == [0, 0, 0, 0, 1]


def test_passage_labelled_for_another_query_of_the_batch_is_no_negative():
    """Both queries are answered by passage 1: each row's copy must not repel the other's query."""
    rows = [example("a", {"1": "A"}), example("b", {"1": "A"}), example("c", {"3": "C"})]
    batch = assemble(rows, [0, 1, 2], seed=0, epoch=0)
    assert columns(batch, 0, "ignore") == {"A"}
    assert batch.ignore[0].tolist() == [False, True, False]
    assert batch.ignore[2].tolist() == [False, True, False]  # the same text twice among c's negatives counts once


def test_other_labelled_passage_of_the_query_is_no_negative():
    """a has two relevant passages and draws one; the other comes into the batch with b."""
    rows = [example("a", {"1": "A1", "2": "A2"}), example("b", {"2": "A2"})]
    for epoch in range(6):
        batch = assemble(rows, [0, 1], seed=0, epoch=epoch)
        assert batch.ignore[0, 1]


def test_text_equal_to_a_positive_is_ignored_whoever_brings_it():
    rows = [example("a", {"1": "A"}, ["same"]), example("b", {"2": "B"}, [], ["same"])]
    batch = assemble(rows, [0, 1], seed=0, epoch=0)
    assert columns(batch, 0, "ignore") == {"same"}
    assert batch.positive[0].tolist() == [True, True, False, False]


def test_one_labelled_positive_per_visit_and_all_of_them_over_epochs():
    rows = [example("a", {"1": "A1", "2": "A2", "3": "A3"}), example("b", {"4": "B"})]
    drawn = {assemble(rows, [0, 1], seed=0, epoch=epoch).documents[0] for epoch in range(30)}
    assert drawn == {"A1", "A2", "A3"}
    assert len(assemble(rows, [0, 1], seed=0, epoch=0).documents) == 2
