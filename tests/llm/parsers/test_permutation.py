"""Strict reading of rankings: an order that nobody gave must not become a label."""

import pytest

from pipeline.llm.parsers import RANKINGS
from pipeline.llm.parsers.permutation import Permutation


def read(answer: str, shown: int = 3, parser: str = "permutation") -> Permutation:
    return RANKINGS[parser](answer, "stop", shown)


@pytest.mark.parametrize(
    "answer",
    [
        "[2] > [3] > [1]",
        " [2]>[3]  >[1]\n",
        "[2] >\n[3] > [ 1 ]",
        "<think>[1] > [2]? No.</think>\n[2] > [3] > [1]",
        "it was [1] first</think>[2] > [3] > [1]",
    ],
)
def test_whole_ranking_is_read(answer: str):
    assert read(answer) == Permutation("ok", (1, 2, 0))


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("[1] > [2] > [2]", "repetition"),
        ("[1] > [1] > [2] > [3]", "repetition"),
        ("[1] > [2]", "missing"),
        ("[3]", "missing"),
        ("[1] > [2] > [4]", "foreign"),
        ("[0] > [1] > [2]", "foreign"),
        ("[1] > [2] > [3] > [99999999999999999999]", "foreign"),
        (f"[1] > [{'9' * 5000}]", "foreign"),
        ("", "wrong_format"),
        ("   ", "wrong_format"),
        ("2 > 3 > 1", "wrong_format"),
        ("[2], [3], [1]", "wrong_format"),
        ("[2] > [3] > [1].", "wrong_format"),
        ("[2] > [3] >", "wrong_format"),
        ("[2] > [3] > [1", "wrong_format"),
        ("[2] > [3] > [1] because [2] names it", "wrong_format"),
        ("Here is the order: [2] > [3] > [1]", "wrong_format"),
        ("Of 3 passages, 2 are relevant and 1 is not", "wrong_format"),
        ("HTTP 429: too many requests, try again in 3 s", "wrong_format"),
        ("[２] > [３] > [１]", "wrong_format"),
        ("[1] < [2] < [3]", "wrong_format"),
        ("<think>[2] > [3] > [1]", "wrong_format"),
        ("[2] > [3] > [1]</think>", "wrong_format"),
        ("A > B > C", "wrong_format"),
    ],
)
def test_anything_else_is_no_ranking_and_says_why(answer: str, outcome: str):
    assert read(answer) == Permutation(outcome, ())


def line(numbers: list[int]) -> str:
    return " > ".join(f"[{number}]" for number in numbers)


def test_a_tenth_may_be_missing_and_follows_in_the_order_shown():
    backwards = list(range(20, 0, -1))
    without = [number for number in backwards if number not in (3, 17)]
    assert read(line(without), 20) == Permutation("repaired", (*(number - 1 for number in without), 2, 16))
    assert read(line(without[1:]), 20) == Permutation("missing", ())
    assert read(line([1, 2, 3, 4, 5, 6, 7]), 8).outcome == "missing", "one of eight is more than a tenth"
    assert read(line([*range(1, 19), 18]), 20).outcome == "repetition", "a repetition is not repaired"
    assert read(line([*range(1, 19), 21]), 20).outcome == "foreign", "a foreign number is not repaired"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[2] > [3] > [1]", Permutation("ok", (1, 2, 0))),
        ("2, then 3, then 1.", Permutation("ok", (1, 2, 0))),
        ("[2] > [2] > [7]", Permutation("repaired", (1, 0, 2))),
        ("<think>1</think>I like 3", Permutation("repaired", (2, 0, 1))),
        ("Error 429", Permutation("wrong_format")),
        ("no idea", Permutation("wrong_format")),
        ("", Permutation("wrong_format")),
        ("9" * 5000, Permutation("wrong_format")),
    ],
)
def test_digits_are_scraped_where_a_prompt_file_asks_for_it(answer: str, expected: Permutation):
    assert read(answer, parser="digits") == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("C > A > B", Permutation("ok", (2, 0, 1))),
        ("C > A > A", Permutation("repetition")),
        ("C > A", Permutation("missing")),
        ("C > A > D", Permutation("foreign")),
        ("c > a > b", Permutation("wrong_format")),
        ("A", Permutation("missing")),
        ("A passage", Permutation("wrong_format")),
    ],
)
def test_letters_are_read_as_strictly(answer: str, expected: Permutation):
    assert read(answer, parser="letters") == expected
