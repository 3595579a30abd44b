"""Make a query's two synthetic passages equally long: otherwise an encoder can learn length instead of relevance."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

# A sentence end nearer to the wanted length than this share of it is better than half a sentence.
_TOLERANCE = 0.15
# Not after an initial ("S. cerevisiae") or before a small letter ("e.g. this").
_SENTENCE_END = re.compile(r"(?<!\b[A-Z])[.!?][\"'”’)\]]*(?=\s+[^a-z\s]|\s*$)")
_WORD = re.compile(r"\S+")


def match_lengths(documents: Mapping[str, dict[str, str]], outcomes: Counter[str]) -> dict[str, dict[str, str]]:
    """Cut the longer of each query's positive and negative to about the other's number of words; counts the cuts.

    Args: `documents` by kind and query id, as they were written. A query with one of the two keeps it as it is.
    Returns: the documents of every kind, cut where need be.
    """
    positives, negatives = dict(documents["positive"]), dict(documents["negative"])
    for query_id in positives.keys() & negatives.keys():
        positive, negative = positives[query_id], negatives[query_id]
        positives[query_id] = cut(positive, len(negative.split()))
        negatives[query_id] = cut(negative, len(positive.split()))
        outcomes["positive_cut"] += positives[query_id] != positive
        outcomes["negative_cut"] += negatives[query_id] != negative
    return {**documents, "positive": positives, "negative": negatives}


def cut(text: str, words: int) -> str:
    """The beginning of a text that has about `words` words; the text itself where it has no more.

    It ends with the sentence that comes nearest to the wanted length; where none comes near, with a word.
    """
    ends = [match.end() for match in _WORD.finditer(text)]
    if not 0 < words < len(ends):
        return text
    beginnings = [text[: match.end()] for match in _SENTENCE_END.finditer(text)]
    distances = [(abs(len(beginning.split()) - words), len(beginning)) for beginning in beginnings]
    nearest = min(distances, default=None)
    if nearest is not None and nearest[0] <= _TOLERANCE * words:
        return text[: nearest[1]]
    return text[: ends[words - 1]]
