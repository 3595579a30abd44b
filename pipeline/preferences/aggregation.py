"""From the preferences of one query to an order of its passages: Bradley-Terry strengths, Copeland scores, cycles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

# Wins of each of a pair over the other that are imagined beside the observed ones: without them, a passage that never
# loses would have an infinite strength.
_PRIOR = 0.1
_TOLERANCE = 1e-10
_MOST_STEPS = 10_000
_DECIMALS = 6  # strengths that agree so far are equal, and differ by the end of the iteration only


@dataclass(frozen=True)
class Consistency:
    """How far comparisons contradict each other: of the triples judged on all sides, how many go round in a circle."""

    cycles: int
    triples: int


def order_of(ids: Sequence[str], preferences: Iterable[tuple[str, str]]) -> tuple[list[str], list[float]]:
    """The passages best first, and their strengths: logarithms, their mean is 0.

    Args:
        ids: the passages by their rank in stage 1, which decides last.
        preferences: (better, worse), repeated where one pair was judged more than once.
    Equal strengths are ordered by Copeland score, equal scores by rank. Raises KeyError for a passage not in `ids`.
    """
    wins = win_matrix(ids, preferences)
    strengths, copeland = log_strengths(wins), copeland_scores(wins)
    order = sorted(range(len(ids)), key=lambda i: (-strengths[i], -copeland[i], i))
    return [ids[i] for i in order], [float(strengths[i]) for i in order]


def win_matrix(ids: Sequence[str], preferences: Iterable[tuple[str, str]]) -> Matrix:
    """`[n, n]`: how often the passage of the row was preferred to that of the column."""
    place = {passage_id: number for number, passage_id in enumerate(ids)}
    wins = np.zeros((len(ids), len(ids)))
    for better, worse in preferences:
        wins[place[better], place[worse]] += 1
    return wins


def copeland_scores(wins: Matrix) -> npt.NDArray[np.int64]:
    """`[n]`: passages beaten by a majority less passages lost to."""
    scores: npt.NDArray[np.int64] = np.sign(wins - wins.T).sum(axis=1).astype(np.int64)
    return scores


def log_strengths(wins: Matrix) -> Matrix:
    """`[n]` log of the Bradley-Terry strengths that are most likely, by the MM algorithm (Hunter 2004, section 2).

    P(i beats j) = strength_i / (strength_i + strength_j); for pairs this is the Plackett-Luce model.
    """
    wins = wins + _PRIOR * (1 - np.eye(len(wins)))
    compared, won = wins + wins.T, wins.sum(axis=1)
    strengths = np.ones(len(wins))
    for _ in range(_MOST_STEPS):
        updated = won / (compared / (strengths[:, None] + strengths)).sum(axis=1)
        # Only ratios count; without a fixed scale the iteration drifts.
        updated /= np.exp(np.log(updated).mean())
        change = np.abs(np.log(updated / strengths)).max(initial=0.0)
        strengths = updated
        if change < _TOLERANCE:
            break
    rounded: Matrix = np.log(strengths).round(_DECIMALS) + 0.0  # no -0.0
    return rounded


def consistency(wins: Matrix) -> Consistency:
    """Counts of triples. A pair that was judged both ways equally often is not judged."""
    beats = (wins > wins.T).astype(np.int64)
    judged = beats + beats.T
    return Consistency(
        cycles=int(np.trace(beats @ beats @ beats)) // 3, triples=int(np.trace(judged @ judged @ judged)) // 6
    )
