"""One query and nothing else: a label before it, a bullet and quotes around it are taken off; a second line is a
fault.
"""

from __future__ import annotations

import re

_LABEL = re.compile(r"^(?:(?:search )?query|question|keywords|claim|statement)\s*:\s*", re.IGNORECASE)


def question(answer: str, finish_reason: str) -> str | None:
    """3 to 40 words that end with their only question mark."""
    text = line(answer, finish_reason)
    if text is None or not text.endswith("?") or text.count("?") > 1:
        return None
    return text if 3 <= len(text.split()) <= 40 else None


def keywords(answer: str, finish_reason: str) -> str | None:
    """2 to 10 words, without commas and without a question mark."""
    text = line(answer, finish_reason)
    if text is None or "?" in text:
        return None
    text = " ".join(text.replace(",", " ").split()).rstrip(".")
    return text if 2 <= len(text.split()) <= 10 else None


def claim(answer: str, finish_reason: str) -> str | None:
    """A statement of 4 to 50 words that ends as one."""
    text = line(answer, finish_reason)
    if text is None or text[-1] not in ".!" or "?" in text:
        return None
    return text if 4 <= len(text.split()) <= 50 else None


def line(answer: str, finish_reason: str) -> str | None:
    """Any one line with a letter or digit in it: for queries in languages with other marks and word boundaries."""
    text = _LABEL.sub("", answer.strip()).strip().strip("\"'“”`*").strip()
    return None if "\n" in text or not re.search(r"\w", text) else text
