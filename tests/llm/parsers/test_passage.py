"""Strict reading of passages."""

import pytest

from pipeline.llm.parsers import TEXTS


def test_label_thought_and_quotes_are_taken_off():
    raw = '<think>hm</think>Here is a passage: "Bread rises because yeast makes gas in the dough."'
    assert TEXTS["passage"](raw, "stop") == "Bread rises because yeast makes gas in the dough."


def test_answer_cut_by_the_limit_keeps_whole_sentences_or_nothing():
    text = "Bread rises because yeast makes gas. The gas is held by the"
    assert TEXTS["passage"](text, "length") == "Bread rises because yeast makes gas."
    assert TEXTS["passage"]("Bread rises because yeast makes", "length") is None


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
    assert TEXTS["passage"](answer, "stop") is None
