"""Several rankings of one list as one: an order by Borda's count, and how surely each pair of it is in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.preferences.recorded import RecordedRanking
from pipeline.reranking.lists import Confidence, Query, RankedList, Teacher

Signs = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Ranking:
    """One pass over a list."""

    passage_ids: tuple[str, ...]  # best first
    windows: tuple[tuple[str, ...], ...]  # what was ranked at once, best first, in the order in which it was ranked


def whole(passage_ids: Sequence[str]) -> Ranking:
    """A ranking of passages that were all compared with each other."""
    return Ranking(tuple(passage_ids), (tuple(passage_ids),))


def aggregate(query: Query, teacher: Teacher, passage_ids: Sequence[str], rankings: Sequence[Ranking]) -> RankedList:
    """Merge the passes over one list.

    Args:
        passage_ids: the list in its first order, which decides between equal scores.
        rankings: at least one; each of some or all of these passages.
    """
    order, shares = borda(passage_ids, [ranking.passage_ids for ranking in rankings])
    return RankedList(query, teacher, tuple(order), tuple(shares), confidence(order, rankings))


def borda(passage_ids: Sequence[str], rankings: Sequence[Sequence[str]]) -> tuple[list[str], list[float]]:
    """The passages best first, and of each the mean over rankings of the share of others that it is above.

    Passages that a ranking does not have share the places below it, with their mean. Equal shares keep the order of
    `passage_ids`, of which every ranking has some or all. Raises KeyError for a passage that is not among them.
    """
    count = len(passage_ids)
    # Twice the places from below, so that means of places are whole numbers and equal shares are equal.
    doubled = dict.fromkeys(passage_ids, 0)
    for ranking in rankings:
        absent = dict.fromkeys(passage_ids, count - len(ranking) - 1)
        for passage_id, place in (absent | {each: 2 * (count - 1 - n) for n, each in enumerate(ranking)}).items():
            doubled[passage_id] += place
    order = sorted(passage_ids, key=lambda passage_id: -doubled[passage_id])
    highest = 2 * (count - 1) * len(rankings)
    return order, [doubled[passage_id] / highest if highest else 1.0 for passage_id in order]


def confidence(order: Sequence[str], rankings: Sequence[Ranking]) -> Confidence:
    """`[n (n - 1) / 2]` for i < j in `order`, row by row: the mean over passes of +1, -1 or 0.

    It is +1 in a pass that puts i above j, and 0 in one that knows nothing of the pair: no window had both, and no
    chain of such pairs leads from one to the other. Of windows that had both, the last counts: it decided the order.
    """
    place = {passage_id: number for number, passage_id in enumerate(order)}
    signs = np.zeros((len(order), len(order)), dtype=np.int32)
    for ranking in rankings:
        signs += _implied(ranking.windows, place)
    upper: Confidence = (signs[np.triu_indices(len(order), 1)] / max(1, len(rankings))).astype(np.float32)
    return upper


def _implied(windows: Sequence[Sequence[str]], place: Mapping[str, int]) -> Signs:
    """`[n, n]`: 1 where the passage of the row is above that of the column, -1 where it is below, 0 if unknown."""
    above = np.zeros((len(place), len(place)), dtype=bool)
    for window in windows:
        rows = [place[passage_id] for passage_id in window]
        above[np.ix_(rows, rows)] = np.triu(np.ones((len(rows), len(rows)), dtype=bool), 1)
    for between in range(len(place) if len(windows) > 1 else 0):  # Warshall 1962
        above |= above[:, between, None] & above[between]
    signs: Signs = above.astype(np.int8) - above.T.astype(np.int8)
    return signs


def of_grades(query: Query, recorded: RecordedRanking) -> RankedList:
    """A ranking with grades, which are its scores. Of two passages of grade 0 nothing is known."""
    decided = np.array([known for _, _, known in recorded.pairs()], dtype=np.float32)
    return RankedList(query, "recorded", recorded.passage_ids, recorded.grades, decided)
