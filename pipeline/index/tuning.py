"""How much of an approximate index a search must look at to reach a recall, measured against exact search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pipeline.index.kinds import CANDIDATES, Spec
from pipeline.index.manifest import Effort
from pipeline.index.shard import Shard
from pipeline.rankings import Hit

RECALL_DEPTH = 10
_QUERIES = 200
_LEAST_DEPTH = 32  # of hnsw: below what it fetches, depth changes nothing


@dataclass(frozen=True)
class Tuned:
    """The least effort that was tried and reached the recall, or the most."""

    effort: Effort
    recall: float


def tune(shard: Shard, wanted: float, probes: int | None) -> Tuned:
    """Try ever more effort on one shard until its recall at 10 is reached. `probes` that are given stay as they are.

    Queries are passages of the shard, each of which then looks for its neighbours: there are no others yet. A shard
    holds any part of the corpus, so what holds for one holds for all.
    """
    count = min(_QUERIES, len(shard.ids))
    rows = np.sort(np.random.default_rng(0).choice(len(shard.ids), count, replace=False))
    queries = shard.vectors_of(rows)
    own = shard.ids.of(rows).to_pylist()
    expected = _without(own, shard.search(queries, RECALL_DEPTH + 1, exact=True).hits())

    def measured(effort: Effort) -> Tuned:
        found = replace(shard, effort=effort).search(queries, RECALL_DEPTH + 1)
        return Tuned(effort, recall(expected, _without(own, found.hits())))

    return _sought(measured(least(shard.spec, probes)), _knobs(shard.spec, probes), wanted, measured)


def _knobs(spec: Spec, probes: int | None) -> list[str]:
    """What may be turned: more of the index, or more candidates of coarse codes."""
    extent = ["depth" if spec.kind == "hnsw" else "probes"] if probes is None else []
    return extent + (["candidates"] if spec.keeps_vectors else [])


def _sought(best: Tuned, knobs: list[str], wanted: float, measured: Callable[[Effort], Tuned]) -> Tuned:
    """Double whatever gains most until the recall is reached or nothing gains."""
    while best.recall < wanted and knobs:
        tried = [measured(replace(best.effort, **{name: 2 * getattr(best.effort, name)})) for name in knobs]
        better = max(tried, key=lambda each: each.recall)
        if better.recall <= best.recall:
            break
        best = better
    return best


def least(spec: Spec, probes: int | None = None) -> Effort:
    """Where the search for an effort begins; what an exact index has."""
    return Effort(
        probes=(probes or 1) if spec.lists else 0,
        depth=(probes or _LEAST_DEPTH) if spec.kind == "hnsw" else 0,
        candidates=CANDIDATES if spec.keeps_vectors else 1,
    )


def recall(expected: list[list[str]], found: list[list[str]]) -> float:
    """Mean share of the expected passages that were found; queries that expect none count nothing."""
    shares = [len(set(wanted) & set(ids)) / len(wanted) for wanted, ids in zip(expected, found, strict=True) if wanted]
    return float(np.mean(shares)) if shares else 1.0


def _without(own: list[str], hits: list[list[Hit]]) -> list[list[str]]:
    return [
        [passage_id for passage_id, _ in each if passage_id != name][:RECALL_DEPTH]
        for name, each in zip(own, hits, strict=True)
    ]
