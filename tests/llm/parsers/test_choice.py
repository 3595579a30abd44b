"""Strict reading of comparisons."""

import pytest

from pipeline.llm.parsers import CHOICES


def parse_choice(answer: str) -> str | None:
    return CHOICES["a_b"](answer, "stop")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A", "first"),
        ("b", "second"),
        (" B.\n", "second"),
        ("**A**", "first"),
        ("(A)", "first"),
        ("[b]", "second"),
        ("Passage B", "second"),
        ("passage A is more relevant.", "first"),
        ("The passage [A]", "first"),
        ("A: it names the year.", "first"),
        ("B, because it names the year", "second"),
        ("<think>B? No.</think>\nA", "first"),
        ("neither", "none"),
        ("Neither passage is a study of it.", "none"),
        ("Neither A nor B", "none"),
    ],
)
def test_clear_answers_are_understood(answer, expected):
    assert parse_choice(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Both",
        "A or B",
        "A/B",
        "a/b",
        "Passage A is better than B.",
        "The answer is A",
        "Apples",
        "Bread",
        "first",
        "C",
        "Neither, but A is closer",
        "<think>it is A",
        "A passage about bread",
    ],
)
def test_anything_else_is_no_side(answer):
    """A side read out of a rambling answer would be a preference that nobody has."""
    assert parse_choice(answer) is None


@pytest.mark.parametrize("rest", ["", ".", " is better", ". A study", ": it's a study", " passage", "\nbecause", "s"])
@pytest.mark.parametrize("upper", [True, False])
def test_both_letters_are_read_alike(rest, upper):
    """A is also a word. A parser that refuses more answers for one letter would make the other one win."""
    one, other = (parse_choice((letter if upper else letter.lower()) + rest) for letter in "AB")
    assert (one, other) in (("first", "second"), (None, None))
