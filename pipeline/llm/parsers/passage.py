"""A passage, or a decomposition."""

from __future__ import annotations

import re

_REFUSAL = re.compile(r"^(?:i'm sorry|i am sorry|sorry|i cannot|i can't|as an ai)\b", re.IGNORECASE)
_LABEL = re.compile(r"^(?:(?:here(?:'s| is)[^\n:]{0,80}|passage|answer|response)\s*:)\s*", re.IGNORECASE)
_FEWEST_WORDS = 5
# A text most of whose words are repetitions of its own phrases came from a model that lost the thread.
_FEWEST_DISTINCT = 0.4


def passage(answer: str, finish_reason: str) -> str | None:
    """The text without a label such as "Passage:" and without quotes around it.

    An answer cut by the token limit keeps its whole sentences. Refused: refusals, fewer than five words, and a text
    that repeats itself.
    """
    text = _LABEL.sub("", answer.strip()).strip().strip('"“”').strip()
    if finish_reason == "length":
        text = _whole_sentences(text)
    words = text.split()
    if len(words) < _FEWEST_WORDS or _REFUSAL.match(text) or _repeats(words):
        return None
    return text


def _whole_sentences(text: str) -> str:
    end = max((match.end() for match in re.finditer(r"[.!?](?=\s|$)", text)), default=0)
    return text[:end]


def _repeats(words: list[str]) -> bool:
    triples = [tuple(words[place : place + 3]) for place in range(len(words) - 2)]
    return len(triples) >= 10 and len(set(triples)) < _FEWEST_DISTINCT * len(triples)
