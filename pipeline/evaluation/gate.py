"""Which encoder is to be deployed, base or a trained one: decided on dev, never on test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.encoder.systems import BASE
from pipeline.evaluation.metrics import Means


@dataclass(frozen=True)
class Decision:
    verdict: Literal["ship", "keep base"]
    chosen: str  # name of the encoder to deploy: a trained one with 'ship', else 'base'
    reason: str  # one sentence in plain words

    @property
    def ships(self) -> bool:
        return self.verdict == "ship"


def decide(base: Means | None, candidates: Mapping[str, Means | None]) -> Decision:
    """Ship the trained encoder of the highest dev nDCG@10 unless it is below base's.

    `candidates` are the trained encoders by name, in the order in which they were trained: a later one must be above
    an earlier one to replace it. `None` stands for no judged dev query.

    Raises ValueError without candidates, or when two were not measured on the same number of queries.
    """
    if not candidates:
        raise ValueError("there is no trained encoder to decide about.")
    measured = {name: means for name, means in candidates.items() if means is not None}
    if base is None or len(measured) < len(candidates):
        return _unproven("There is no judged dev query")
    for name, means in measured.items():
        if means.queries != base.queries:
            raise ValueError(f"base was measured on {base.queries} dev queries but {name} on {means.queries}.")
    if base.without_relevant == base.queries:
        return _unproven("No dev query has a relevant passage")
    ndcg = {name: means.ndcg_at_10 for name, means in measured.items()}
    best = max(ndcg, key=ndcg.__getitem__)  # the first of equal ones
    ships = ndcg[best] >= base.ndcg_at_10
    queries = "1 dev query" if base.queries == 1 else f"{base.queries:,} dev queries"
    compared = _outdone(best, ndcg | {BASE: base.ndcg_at_10}) if ships else _below_base(ndcg, base.ndcg_at_10)
    return Decision("ship" if ships else "keep base", best if ships else BASE, f"On {queries} {compared}.")


def _unproven(cause: str) -> Decision:
    return Decision("keep base", BASE, f"{cause}, so nothing shows that a trained encoder is as good as base.")


def _outdone(best: str, ndcg: Mapping[str, float]) -> str:
    shown = _distinguishable(ndcg)
    others = " and ".join(
        f"{'above' if ndcg[best] > ndcg[name] else 'equal to'} the {name} encoder's {shown[name]}"
        for name in ndcg
        if name != best
    )
    return f"the {best} encoder reaches nDCG@10 {shown[best]}, {others}"


def _below_base(ndcg: Mapping[str, float], base: float) -> str:
    shown = _distinguishable({**ndcg, BASE: base})
    (first, *others) = ndcg
    rest = "".join(f" and the {name} encoder {shown[name]}" for name in others)
    return f"the {first} encoder reaches nDCG@10 {shown[first]}{rest}, below the base encoder's {shown[BASE]}"


def _distinguishable(values: Mapping[str, float]) -> dict[str, str]:
    """Every figure with as many digits as it takes to see which of them differ."""
    digits = 3
    while digits < 17 and len({f"{v:.{digits}f}" for v in values.values()}) < len(set(values.values())):
        digits += 1
    return {name: f"{value:.{digits}f}" for name, value in values.items()}
