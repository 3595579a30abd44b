"""Which passages of a query's top K are compared, and which of the two is shown first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Literal

Policy = Literal["all", "k", "adjacent"]
Order = Literal["coin", "both"]
Pair = tuple[str, str]


def choose_pairs(ids: Sequence[str], policy: Policy, seed: str) -> list[Pair]:
    """Pairs of `ids`, the better-ranked first, in the order of the ranks.

    'all' is every pair, 'k' a seeded choice of as many pairs as there are passages (N = K in Kim & Baek 2025),
    'adjacent' the neighbours in rank.
    """
    if policy == "adjacent":
        return list(pairwise(ids))
    every = list(combinations(ids, 2))
    if policy == "all":
        return every
    chosen = random.Random(seed).sample(range(len(every)), min(len(ids), len(every)))
    return [every[number] for number in sorted(chosen)]


def as_shown(pair: Pair, order: Order, seed: str) -> list[Pair]:
    """The pair in the order or orders in which the LLM sees it.

    Language models favour a place: 'coin' tosses one per pair, so that the favour is noise and no preference for the
    better-ranked passage; 'both' asks twice. The toss depends on the seed and the pair alone, not on other pairs.
    """
    one, other = sorted(pair)
    if order == "both":
        return [(one, other), (other, one)]
    return [(one, other) if random.Random(f"{seed}\n{one}\n{other}").random() < 0.5 else (other, one)]
