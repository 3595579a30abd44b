"""An order of the passages shown, best first."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Literal

from pipeline.llm.parsers.thought import without_thought

Outcome = Literal["ok", "repaired", "repetition", "missing", "foreign", "wrong_format"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BRACKETED = r"\[\s*[0-9]+\s*\]"
_NUMBERS = re.compile(rf"\s*{_BRACKETED}(?:\s*>\s*{_BRACKETED})*\s*")
_LETTERS = re.compile(r"\s*[A-Z](?:\s*>\s*[A-Z])*\s*")
_MOST_DIGITS = 9  # Python refuses to read a number of thousands of digits


@dataclass(frozen=True)
class Permutation:
    """What became of an answer."""

    outcome: Outcome
    places: tuple[int, ...] = ()  # from 0, in the order shown; best first, all of them; empty where it is no ranking


RankingParser = Callable[[str, str, int], Permutation]  # answer, finish_reason, number of passages shown


def _thoughtful(parse: RankingParser) -> RankingParser:
    """The parser, for answers that may begin with a thought."""

    @wraps(parse)
    def parse_rest(answer: str, finish_reason: str, shown: int) -> Permutation:
        rest = without_thought(answer)
        return Permutation("wrong_format") if rest is None else parse(rest, finish_reason, shown)

    return parse_rest


@_thoughtful
def permutation(answer: str, finish_reason: str, shown: int) -> Permutation:
    """The whole answer is `[a] > [b] > ...`, the numbers from 1 to `shown`.

    Where at most a tenth of them are missing, these follow in the order shown.
    """
    if not _NUMBERS.fullmatch(answer):
        return Permutation("wrong_format")
    return _checked(_read_numbers(answer), shown)


@_thoughtful
def digits(answer: str, finish_reason: str, shown: int) -> Permutation:
    """RankGPT's reading (Sun et al. 2023, their code): whatever numbers there are, each the first time it comes.

    What is no number of a passage is left out, and missing passages follow in the order shown. An answer in which
    nothing is such a number is no ranking; there, RankGPT takes the order shown.
    """
    found = _read_numbers(answer)
    known = tuple(dict.fromkeys(place for place in found if 0 <= place < shown))
    if not known:
        return Permutation("wrong_format")
    complete = len(found) == len(known) == shown
    return Permutation("ok" if complete else "repaired", _filled_up(known, shown))


@_thoughtful
def letters(answer: str, finish_reason: str, shown: int) -> Permutation:
    """The whole answer is `C > A > ...`, the first `shown` letters; read as strictly as `permutation`."""
    if not _LETTERS.fullmatch(answer):
        return Permutation("wrong_format")
    return _checked([LETTERS.index(letter) for letter in re.findall("[A-Z]", answer)], shown)


def _read_numbers(answer: str) -> list[int]:
    return [int(number) - 1 if len(number) <= _MOST_DIGITS else -1 for number in re.findall("[0-9]+", answer)]


def _checked(places: Sequence[int], shown: int) -> Permutation:
    if not all(0 <= place < shown for place in places):
        return Permutation("foreign")
    if len(set(places)) < len(places):
        return Permutation("repetition")
    if len(places) == shown:
        return Permutation("ok", tuple(places))
    if 10 * len(places) < 9 * shown:
        return Permutation("missing")
    return Permutation("repaired", _filled_up(places, shown))


def _filled_up(places: Sequence[int], shown: int) -> tuple[int, ...]:
    return (*places, *(place for place in range(shown) if place not in places))
