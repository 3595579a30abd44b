"""Strict reading of verdicts and documents, and the policy on failed positives."""

import pytest

from pipeline.synthesis.parsing import parse_document, parse_verdict
from pipeline.synthesis.verification import decide


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("yes", True),
        ("Yes.", True),
        ("**No**", False),
        ("No, the passage is about something else.", False),
        ("Yes and no", None),
        ("The answer is yes", None),
        ("yesterday", None),
        ("", None),
        ("<think>no, wait</think> yes", True),
        ("<think>never finished, yes", None),
    ],
)
def test_only_a_clear_verdict_counts(answer, expected):
    """A verdict read out of a rambling answer would keep hallucinated positives."""
    assert parse_verdict(answer) is expected


def test_label_thought_and_quotes_are_taken_off():
    raw = '<think>hm</think>Here is a passage: "Bread rises because yeast makes gas in the dough."'
    assert parse_document(raw, "stop") == "Bread rises because yeast makes gas in the dough."


def test_answer_cut_by_the_limit_keeps_whole_sentences_or_nothing():
    text = "Bread rises because yeast makes gas. The gas is held by the"
    assert parse_document(text, "length") == "Bread rises because yeast makes gas."
    assert parse_document("Bread rises because yeast makes", "length") is None


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Yes.",
        "<think>Okay, the user wants a passage about bread.",
        "I'm sorry, but I cannot write that passage for you.",
        "no no no no " * 20,
    ],
)
def test_refusals_stubs_and_loops_are_no_documents(answer):
    assert parse_document(answer, "stop") is None


def test_failed_positive_is_relabelled_by_default_and_unclear_ones_dropped():
    assert decide("yes", "relabel") == "kept"
    assert [decide("no", policy) for policy in ("relabel", "drop", "keep")] == ["relabelled", "dropped", "kept"]
    assert decide("unparseable", "keep") == "dropped"
    assert decide("absent", "keep") == "dropped"
    assert decide("unverified", "relabel") == "kept"
