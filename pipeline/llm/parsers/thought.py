"""Answers of models that think aloud before they answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

T = TypeVar("T")


def without_thought(answer: str) -> str | None:
    """What follows the thought, or None when the thought never ended.

    Some chat templates open the thought in the prompt, so that the answer holds its end only.
    """
    _, _, rest = answer.rpartition("</think>")
    return None if "<think>" in rest else rest


def thoughtful(parse: Callable[[str, str], T | None]) -> Callable[[str, str], T | None]:
    """The parser, for answers that may begin with a thought."""

    @wraps(parse)
    def parse_rest(answer: str, finish_reason: str) -> T | None:
        rest = without_thought(answer)
        return None if rest is None else parse(rest, finish_reason)

    return parse_rest
