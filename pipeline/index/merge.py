"""Merge the answers of index shards into one ranking. Knows nothing of FAISS or Ray."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from pipeline.rankings import Hit


def merge(answers: Iterable[Sequence[Hit]], k: int) -> list[Hit]:
    """The k best of several shards' rankings: score descending, ties by id ascending.

    Equal to the ranking of one index over all passages when every shard gave its exact top k.
    """
    return sorted(chain.from_iterable(answers), key=lambda hit: (-hit.score, hit.passage_id))[:k]
