"""Strict reading of verdicts."""

import pytest

from pipeline.llm.parsers import VERDICTS


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
    assert VERDICTS["yes_no"](answer, "stop") is expected
