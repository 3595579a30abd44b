"""Whether the tuned encoder may replace the base one: decided on dev, never on test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.evaluation.metrics import Means


@dataclass(frozen=True)
class Decision:
    verdict: Literal["ship", "keep base"]
    reason: str  # one sentence in plain words

    @property
    def ships(self) -> bool:
        return self.verdict == "ship"


def decide(base: Means | None, tuned: Means | None) -> Decision:
    """Ship the tuned encoder unless its dev nDCG@10 is below base's; `None` stands for no judged dev query.

    Raises ValueError when the two were not measured on the same number of queries.
    """
    if base is None or tuned is None:
        return Decision(
            "keep base", "There is no judged dev query, so nothing shows that the tuned encoder is as good."
        )
    if base.queries != tuned.queries:
        raise ValueError(f"base was measured on {base.queries} dev queries but tuned on {tuned.queries}.")
    if base.without_relevant == base.queries:
        return Decision(
            "keep base",
            "No dev query has a relevant passage, so nothing shows that the tuned encoder is as good.",
        )
    mine, other = _distinguishable(tuned.ndcg_at_10, base.ndcg_at_10)
    queries = "1 dev query" if base.queries == 1 else f"{base.queries:,} dev queries"
    if tuned.ndcg_at_10 < base.ndcg_at_10:
        return Decision(
            "keep base",
            f"On {queries} the tuned encoder reaches nDCG@10 {mine}, below the base encoder's {other}.",
        )
    relation = "above" if tuned.ndcg_at_10 > base.ndcg_at_10 else "equal to"
    return Decision(
        "ship",
        f"On {queries} the tuned encoder reaches nDCG@10 {mine}, {relation} the base encoder's {other}.",
    )


def _distinguishable(first: float, second: float) -> tuple[str, str]:
    """Both figures with as many digits as it takes to see that they differ."""
    digits = 3
    while first != second and digits < 17 and f"{first:.{digits}f}" == f"{second:.{digits}f}":
        digits += 1
    return f"{first:.{digits}f}", f"{second:.{digits}f}"
