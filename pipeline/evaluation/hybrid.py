"""Which fusion of BM25 and an encoder to deploy: by rank, or weighted as dev judgments like it best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from pipeline.evaluation import metrics
from pipeline.fusion import fuse_all, weigh_all
from pipeline.rankings import Hit, Rankings, to_table

# Cosines of good hits differ by some hundredths, shares of BM25 by tenths.
WEIGHTS = (0.0, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2)
# Without dev judgments, for the ranking that the report shows
_USUAL_WEIGHT = 0.4


@dataclass(frozen=True)
class Fusion:
    """How to merge BM25 with an encoder's hits; `method` is the one to deploy."""

    method: Literal["rrf", "weighted"]
    rrf_k: int
    lexical_weight: float  # of method weighted: see `fusion.weighted_sum`
    dev_ndcg_at_10: dict[str, float]  # of each method; empty without dev judgments


@dataclass(frozen=True)
class Hybrid:
    """Both fusions of one encoder with BM25."""

    fusion: Fusion
    by_rank: dict[str, list[Hit]]
    weighted: dict[str, list[Hit]]


def fuse(lexical: Rankings, dense: Rankings, dev: pa.Table, rrf_k: int, top_k: int) -> Hybrid:
    """Fuse by rank, and with the weight whose nDCG@10 on dev is highest, the smallest of equal ones.

    Args:
        dev: rows of `records.JUDGMENT` of dev queries. Where there are none, or weights gain nothing, rank decides.
    """
    by_rank = fuse_all([lexical, dense], rrf_k, top_k)
    of_rank = _ndcg(by_rank, dev)
    if of_rank is None:
        return Hybrid(Fusion("rrf", rrf_k, _USUAL_WEIGHT, {}), by_rank, weigh_all(dense, lexical, _USUAL_WEIGHT, top_k))
    scores = {weight: _ndcg(weigh_all(dense, lexical, weight, top_k), dev) or 0.0 for weight in WEIGHTS}
    weight = max(scores, key=lambda each: (scores[each], -each))
    reached = {"rrf": of_rank, "weighted": scores[weight]}
    chosen: Literal["rrf", "weighted"] = "weighted" if reached["weighted"] > reached["rrf"] else "rrf"
    return Hybrid(Fusion(chosen, rrf_k, weight, reached), by_rank, weigh_all(dense, lexical, weight, top_k))


def _ndcg(rankings: Rankings, dev: pa.Table) -> float | None:
    means = metrics.score(to_table("fused", rankings), dev, "fused").means
    return None if means is None else means.ndcg_at_10
