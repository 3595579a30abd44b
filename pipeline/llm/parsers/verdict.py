"""Yes or no."""

from __future__ import annotations

import re


def yes_no(answer: str, finish_reason: str) -> bool | None:
    """True for yes, False for no.

    The answer must begin with the word; what follows may explain it but not name the other word.
    """
    words: list[str] = re.findall(r"[a-z]+", answer.lower())
    if not words or words[0] not in ("yes", "no") or {"yes", "no"} <= set(words):
        return None
    return words[0] == "yes"
