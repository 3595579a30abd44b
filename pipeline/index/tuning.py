"""How much of an approximate index a search must look at to reach a recall, measured against exact search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipeline.index.kinds import CANDIDATES, Spec
from pipeline.index.manifest import Effort
from pipeline.index.shard import Shard
from pipeline.rankings import Hit

RECALL_DEPTH = 10
_QUERIES = 200
_MOST_DEPTH = 1024  # breadth of hnsw
_MOST_CANDIDATES = 8 * CANDIDATES


@dataclass(frozen=True)
class Tuned:
    """The least effort that was tried and reached the recall, or the most."""

    effort: Effort
    recall: float


def tune(shard: Shard, wanted: float, probes: int | None) -> Tuned:
    """Try ever more effort on one shard until its recall at 10 is reached; with `probes` given, nothing else.

    Queries are passages of the shard, each of which then looks for its neighbours: there are no others yet. A shard
    holds any part of the corpus, so what holds for one holds for all.
    """
    count = min(_QUERIES, len(shard.ids))
    rows = np.sort(np.random.default_rng(0).choice(len(shard.ids), count, replace=False))
    queries = shard.vectors_of(rows)
    own = shard.ids.of(rows).to_pylist()
    expected = _without(own, shard.exact(queries, RECALL_DEPTH + 1).hits())
    best = Tuned(least(shard.spec), 0.0)
    for effort in _efforts(shard.spec, probes):
        found = _without(own, replace(shard, effort=effort).search(queries, RECALL_DEPTH + 1).hits())
        best = Tuned(effort, recall(expected, found))
        if best.recall >= wanted:
            break
    return best


def least(spec: Spec) -> Effort:
    """Where the search for an effort begins; what an exact index has."""
    return Effort(
        probes=1 if spec.lists else 0,
        depth=16 if spec.kind == "hnsw" else 0,
        candidates=CANDIDATES if spec.keeps_vectors else 1,
    )


def _efforts(spec: Spec, given: int | None) -> Iterator[Effort]:
    """From little to much: more lists or breadth first, then more candidates where codes are coarse."""
    effort = least(spec)
    while effort.candidates <= _MOST_CANDIDATES:
        for value in _doubling(spec.lists or _MOST_DEPTH) if given is None else [given]:
            yield replace(effort, depth=value) if spec.kind == "hnsw" else replace(effort, probes=value)
        if not spec.keeps_vectors:
            return
        effort = replace(effort, candidates=effort.candidates * 2)


def _doubling(limit: int) -> list[int]:
    return [*(1 << n for n in range(limit.bit_length()) if 1 << n < limit), limit]


def recall(expected: list[list[str]], found: list[list[str]]) -> float:
    """Mean share of the expected passages that were found; queries that expect none count nothing."""
    shares = [len(set(wanted) & set(ids)) / len(wanted) for wanted, ids in zip(expected, found, strict=True) if wanted]
    return float(np.mean(shares)) if shares else 1.0


def _without(own: list[str], hits: list[list[Hit]]) -> list[list[str]]:
    return [
        [passage_id for passage_id, _ in each if passage_id != name][:RECALL_DEPTH]
        for name, each in zip(own, hits, strict=True)
    ]
