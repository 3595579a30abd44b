"""What a reranker is judged by: first stages and the same reranked side by side, latency, and whether it ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.evaluation.metrics import Means
from pipeline.evaluation.significance import Comparison

# A reranker costs time on every query: it ships only where dev tells its gain from luck.
_LEVEL = 0.05


@dataclass(frozen=True)
class RerankedFigures:
    """One first stage with its first `depth` hits reranked; None where the split has no judged query."""

    first_stage: str
    depth: int
    dev: Means | None
    test: Means | None
    dev_change: Comparison | None  # of nDCG@10, reranked less first stage
    test_change: Comparison | None
    milliseconds: float  # of scoring the hits of one query, the median; one query at a time


@dataclass(frozen=True)
class RerankerDecision:
    """Whether to deploy the reranker, and behind what."""

    verdict: Literal["ship", "keep first stage"]
    first_stage: str
    depth: int  # 0 where there is nothing to rerank
    reason: str  # one sentence in plain words

    @property
    def ships(self) -> bool:
        return self.verdict == "ship"


@dataclass(frozen=True)
class Reranking:
    """The part of a report about the reranker."""

    sources: tuple[str, ...]  # that found the candidates it learnt from
    lists: dict[str, int]  # teacher -> lists
    rows: tuple[RerankedFigures, ...]
    gate: RerankerDecision


def decide(
    first_stages: Mapping[str, Means | None],
    rows: Sequence[RerankedFigures],
    to_best: Mapping[tuple[str, int], Comparison | None],
) -> RerankerDecision:
    """Ship the best of `rows` on dev where it beats the best first stage, and not by luck.

    Args:
        first_stages: what each reaches on dev by itself; None without judged dev queries.
        to_best: (first stage, depth) -> that row's nDCG@10 on dev less that of the best first stage.
    """
    measured = {name: means.ndcg_at_10 for name, means in first_stages.items() if means is not None}
    if not measured:
        name = next(iter(first_stages))
        return RerankerDecision(
            "keep first stage", name, 0, "There is no judged dev query, so nothing shows that reranking helps."
        )
    best = max(measured, key=measured.__getitem__)
    row = max(rows, key=lambda each: (each.dev.ndcg_at_10 if each.dev else 0.0, -each.depth))
    change = to_best[row.first_stage, row.depth]
    assert row.dev is not None and change is not None, "all systems have the same dev queries"
    reached = f"{row.first_stage} with {row.depth} hits reranked reaches nDCG@10 {row.dev.ndcg_at_10:.3f} on dev"
    against = f"{best} alone {measured[best]:.3f}"
    if change.difference <= 0:
        return RerankerDecision(
            "keep first stage", best, 0, f"Reranking hurts here: {reached}, {against}; it is not shipped."
        )
    if change.p_value >= _LEVEL:
        reason = f"{reached}, {against}: a difference that luck explains (p = {change.p_value:.2f}); it is not shipped."
        return RerankerDecision("keep first stage", best, 0, reason)
    return RerankerDecision("ship", row.first_stage, row.depth, f"{reached}, {against}.")
