"""Strict reading of what the LLM answers: an answer in another form is no answer."""

from __future__ import annotations

import re
from typing import Literal

_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_REFUSAL = re.compile(r"^(?:i'm sorry|i am sorry|sorry|i cannot|i can't|as an ai)\b", re.IGNORECASE)
_LABEL = re.compile(r"^(?:(?:here(?:'s| is)[^\n:]{0,80}|passage|answer|response)\s*:)\s*", re.IGNORECASE)
_FEWEST_WORDS = 5
# A text most of whose words are repetitions of its own phrases came from a model that lost the thread.
_FEWEST_DISTINCT = 0.4


def without_thought(answer: str) -> str:
    """The answer without what a reasoning model thought aloud; a thought that never ended stays."""
    return _THOUGHT.sub("", answer)


def parse_verdict(answer: str) -> bool | None:
    """True for yes, False for no, None for anything else.

    The answer must begin with the word; what follows may explain it but not name the other word.
    """
    words: list[str] = re.findall(r"[a-z]+", without_thought(answer).lower())
    if not words or words[0] not in ("yes", "no") or {"yes", "no"} <= set(words):
        return None
    return words[0] == "yes"


def parse_document(answer: str, finish_reason: str) -> str | None:
    """The passage or decomposition in an answer, or None where there is no usable one.

    Taken off: a thought, a label such as "Passage:", quotes. An answer cut by the token limit keeps its whole
    sentences. Refused: refusals, fewer than five words, and a text that repeats itself.
    """
    text = _LABEL.sub("", without_thought(answer).strip()).strip().strip('"“”').strip()
    if finish_reason == "length":
        text = _whole_sentences(text)
    words = text.split()
    # A thought that never ended is all that the limit left room for.
    if "<think>" in text or len(words) < _FEWEST_WORDS or _REFUSAL.match(text) or _repeats(words):
        return None
    return text


def _whole_sentences(text: str) -> str:
    end = max((match.end() for match in re.finditer(r"[.!?](?=\s|$)", text)), default=0)
    return text[:end]


def _repeats(words: list[str]) -> bool:
    triples = [tuple(words[place : place + 3]) for place in range(len(words) - 2)]
    return len(triples) >= 10 and len(set(triples)) < _FEWEST_DISTINCT * len(triples)


Outcome = Literal["kept", "relabelled", "dropped"]
