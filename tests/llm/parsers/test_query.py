"""Strict reading of queries."""

import pytest

from pipeline.llm.parsers import TEXTS


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("question", "How do I sort a list?", "How do I sort a list?"),
        ("question", ' Question: "How do I sort a list?" ', "How do I sort a list?"),
        ("question", "How do I sort a list?\nUse sorted().", None),
        ("question", "Use sorted().", None),
        ("question", "Why? How? When?", None),
        ("question", "Sort?", None),
        ("keywords", "sort list, reverse order.", "sort list reverse order"),
        ("keywords", "sort", None),
        ("keywords", "what sorts a list?", None),
        ("keywords", "one two three four five six seven eight nine ten eleven", None),
        ("claim", "Sorting a list is stable.", "Sorting a list is stable."),
        ("claim", "Sorting a list is", None),
        ("claim", "", None),
        ("question", "?", None),
    ],
)
def test_answers_are_read_strictly(kind, answer, expected):
    assert TEXTS[kind](answer, "stop") == expected
