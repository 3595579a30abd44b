"""Answers of models that think aloud."""

import pytest

from pipeline.llm.parsers import CHOICES, TEXTS, VERDICTS


@pytest.mark.parametrize("answer", ["<think>no, B</think>\n{}", "it is B, no\n</think>\n\n{}", "<think>\n</think>{}"])
def test_only_what_follows_the_thought_counts(answer: str):
    """Some chat templates open the thought in the prompt: the answer then holds its end only."""
    assert VERDICTS["yes_no"](answer.format("yes"), "stop") is True
    assert CHOICES["a_b"](answer.format("A"), "stop") == "first"
    assert TEXTS["question"](answer.format("Why is it so?"), "stop") == "Why is it so?"


def test_thought_that_never_ended_is_no_answer():
    for parsers in (VERDICTS, CHOICES, TEXTS):
        for parse in parsers.values():
            assert parse("<think>The passage says yes, and A, so it is clearly relevant?", "length") is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("東京の人口は？", "東京の人口は？"), ("Query: où est-il", "où est-il"), ("two\nlines", None), ("?!", None)],
)
def test_line_takes_a_query_of_any_language(answer: str, expected: str | None):
    assert TEXTS["line"](answer, "stop") == expected
