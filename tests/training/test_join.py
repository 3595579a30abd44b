"""Joining labels, synthetic documents, mined passages and preferences into examples."""

from collections import Counter

from pipeline.training.batch import Visit, assemble
from pipeline.training.examples import Example
from pipeline.training.join import (
    as_tables,
    labelled_example,
    represented,
    with_mined,
    with_preferences,
    with_synthesis,
)

TEXTS = {"1": "one", "2": "two", "3": "three", "4": "four", "9": "one"}
LABELLED = Example("q", "query", ("1",), ("one",))
ALL = ("decomposition", "positive", "negative")


def synthesis(outcome: str) -> list[dict[str, str | None]]:
    return [{"decomposition": "cot", "positive": "p+", "negative": "p-", "outcome": outcome}]


def order(ids: str, grades: list[float]) -> dict[str, list]:
    return {"passage_ids": list(ids), "grades": grades}


def test_outcome_of_verification_decides_where_the_positive_goes():
    found = {o: with_synthesis(LABELLED, synthesis(o), ALL) for o in ("kept", "relabelled", "dropped")}
    assert (found["kept"].positives, found["kept"].negatives) == (("cot", "p+"), ("p-",))
    assert (found["relabelled"].positives, found["relabelled"].negatives) == (("cot",), ("p-", "p+"))
    assert (found["dropped"].positives, found["dropped"].negatives) == (("cot",), ("p-",))


def test_only_the_asked_kinds_enter():
    assert with_synthesis(LABELLED, synthesis("kept"), ("negative",)).positives == ()
    assert with_synthesis(LABELLED, synthesis("relabelled"), ("decomposition",)).negatives == ()


def test_label_without_text_attracts_nothing():
    """An empty passage is the same vector for every query."""
    example = labelled_example("q", "query", ["1", "5", "6"], {"1": "one", "5": ""}, {})
    assert (example.labelled_ids, example.labelled) == (("1",), ("one",))


def test_label_goes_by_the_first_of_its_duplicates():
    assert labelled_example("q", "query", ["9"], TEXTS, {"9": "1"}).labelled_ids == ("1",)


def test_duplicate_of_the_label_is_not_mined():
    assert with_mined(LABELLED, ["2", "9", "1"], TEXTS, {"9": "1"}).mined_ids == ("2",)


def test_pairs_are_places_among_the_candidates_and_unknown_ones_are_left_out():
    example = with_preferences(LABELLED, order("123", [3, 2, 1]), [("2", "1"), ("3", "7")], TEXTS, graded=False)
    assert example.candidate_ids == ("1", "2", "3")
    assert example.orders == ((1, 0),) and example.grades == ()


def test_same_text_under_two_ids_is_one_candidate():
    """A pair of equal texts has a gradient of nothing but noise."""
    example = with_preferences(LABELLED, order("192", [3, 2, 1]), None, TEXTS, graded=False)
    assert example.candidate_ids == ("1", "2") and example.orders == ((0, 1),)
    assert with_preferences(LABELLED, order("19", [3, 2]), [("1", "9")], TEXTS, graded=False).orders == ()
    assert with_preferences(LABELLED, order("19", [3, 2]), None, TEXTS, graded=True).grades == ()


def test_grades_go_with_their_candidates():
    example = with_preferences(LABELLED, order("213", [0, 3, 1]), None, TEXTS, graded=True)
    assert dict(zip(example.candidate_ids, example.grades, strict=True)) == {"2": 0.0, "1": 3.0, "3": 1.0}


def test_recorded_zeros_are_no_preference_and_end_an_order():
    """Learnt as an order, the places of useless passages would be noise; a query with nothing else teaches nothing."""
    some = with_preferences(LABELLED, order("123", [2, 0, 0]), None, TEXTS, graded=False, recorded=True)
    assert some.orders == ((0, 1, 2),) and some.grades == (2.0, 0.0, 0.0)
    (row,) = assemble([some], [0], Visit(contrast=False, candidates="order"), seed=0, epoch=0).rows
    assert row.order == (0,) and row.listed == (0, 1, 2)
    for graded in (False, True):
        none = with_preferences(LABELLED, order("123", [0, 0, 0]), None, TEXTS, graded=graded, recorded=True)
        assert none.orders == none.grades == ()
    fitted = with_preferences(LABELLED, order("123", [1, 0, -1]), None, TEXTS, graded=False)
    (row,) = assemble([fitted], [0], Visit(contrast=False, candidates="order"), seed=0, epoch=0).rows
    assert row.order == (0, 1, 2), "the mean of fitted strengths is 0: it means nothing"


def test_query_without_any_positive_is_left_out_and_counted():
    """It would have an infinite loss."""
    outcomes: Counter[str] = Counter()
    blocks = [[LABELLED, Example("r", "another")], [Example("s", "a third")]]
    tables = list(as_tables(blocks, lambda e: bool(e.labelled or e.positives), outcomes, "examples_without_positive"))
    assert [table["query_id"].to_pylist() for table in tables] == [["q"]]
    assert outcomes["examples_without_positive"] == 2 and outcomes["examples_with_label"] == 1


def test_mined_and_ranked_passages_go_by_the_first_of_their_duplicates():
    """Under an id of its own, a copy of one query's label repels that query when another query brings it in."""
    example = with_mined(LABELLED, ["2", "4"], TEXTS, {})
    example = with_preferences(example, order("34", [2, 1]), None, TEXTS, graded=False)
    found = represented(example, {"4": "3", "2": "0"})
    assert (found.mined_ids, found.mined) == (("0", "3"), ("two", "four"))
    assert (found.candidate_ids, found.candidates) == (("3", "3"), ("three", "four"))
