"""Which of a query's hits are hard negatives: positive-aware mining (Moreira et al. 2024). Searches nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from pipeline.rankings import Hit
from pipeline.recipe import NegativesSection


class Negative(NamedTuple):
    """A mined passage: its rank from 1 among the hits that are no known positives, and its score."""

    passage_id: str
    rank: int
    score: float


def search_depth(section: NegativesSection, positives: int) -> int:
    """Hits that fill the ranks of the recipe when every known positive is among them."""
    return section.ranks[1] + positives


def mine(
    hits: Sequence[Hit], positives: Set[str], representatives: Mapping[str, str], section: NegativesSection
) -> tuple[list[Negative], Counter[str]]:
    """The best-ranked hits that are probably no positives, and counts of what was dropped.

    Args:
        hits: of one query, best first, at least `search_depth` of them where the index has so many.
        positives: ids of its passages with a grade above 0; not empty.
        representatives: passage id -> first of its near-duplicates; others stand for themselves.
    A near-duplicate of a positive is dropped, and of several near-duplicates the best-ranked is kept.
    """
    # Queries searched together are searched as deep as the deepest of them; that must change nothing.
    hits = hits[: search_depth(section, len(positives))]
    limit, outcomes = score_limit(hits, positives, section), Counter[str]()
    outcomes["queries_with_positive_below_hits"] += limit == -math.inf
    seen = {representatives.get(passage_id, passage_id) for passage_id in positives}
    first, last = section.ranks
    others = [hit for hit in hits if hit.passage_id not in positives]
    found = []
    for rank, hit in enumerate(others[first - 1 : last], start=first):
        group = representatives.get(hit.passage_id, hit.passage_id)
        if hit.score > limit:
            outcomes["dropped_above_positive"] += 1
        elif group in seen:
            outcomes["dropped_duplicates"] += 1
        else:
            seen.add(group)
            found.append(Negative(hit.passage_id, rank, hit.score))
    return found[: section.per_query], outcomes


def score_limit(hits: Sequence[Hit], positives: Set[str], section: NegativesSection) -> float:
    """The highest score that a negative may have (Moreira et al. 2024, TopK-PercPos and TopK-MarginPos).

    Both rules refer to the worst-scoring positive. Where it is not among the hits, it scores no more than any of
    them: then none may be a negative, and its score need not be known.
    """
    if section.max_share_of_positive is None and section.margin is None:
        return math.inf
    scores = {hit.passage_id: hit.score for hit in hits if hit.passage_id in positives}
    if len(scores) < len(positives):
        return -math.inf
    worst = min(scores.values())
    # A share of a negative score lies above it.
    by_share = math.inf if section.max_share_of_positive is None else min(worst, section.max_share_of_positive * worst)
    by_margin = math.inf if section.margin is None else worst - section.margin
    return min(by_share, by_margin)
