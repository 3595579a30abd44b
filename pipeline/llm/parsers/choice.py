"""One of two passages, or neither."""

from __future__ import annotations

import re
from typing import Literal

Choice = Literal["first", "second", "none"]

# A bare letter must stand alone: "A study shows" begins with an article. What is refused of A is refused of B, too:
# a parser that understands one of them better would prefer it.
_CHOICE = re.compile(
    r"""^[\s*"'“`]*(?:
        (?:the\s+)?passage\s+[("\[*]*(?P<labelled>[ab])\b
        | [(\[]\s*(?P<bracketed>[ab])\s*[)\]]
        | (?P<bare>[ab])(?=\s*$|\s*\n|\s*[^\w\s])
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_NEITHER = re.compile(r"^\W*neither\b", re.IGNORECASE)
_LETTER = re.compile(r"\b[AB]\b")


def a_b(answer: str, finish_reason: str) -> Choice | None:
    """'first' for A, 'second' for B, 'none' for neither.

    The answer must begin with the letter, alone, in brackets or after "Passage"; what follows may explain it, but names
    neither letter again.
    """
    text = answer.strip()
    if _NEITHER.match(text):
        return None if len(_LETTER.findall(text)) == 1 else "none"
    match = _CHOICE.match(text)
    if match is None:
        return None
    letter = match[match.lastgroup or 0]
    if len(_LETTER.findall(text if letter.isupper() else text.upper())) > 1:
        return None
    return "first" if letter.upper() == "A" else "second"
