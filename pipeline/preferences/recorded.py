"""Recorded rankings, from a file, as preferences: a pair is decided by the ranking, a pair of grade 0 by nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pipeline.recorded import file_name, is_number, is_unicode, numbered_rows

Reject = Callable[[str, int | None, str | None, str], None]  # source, line, query id, reason


@dataclass(frozen=True)
class RecordedRanking:
    """Passages of one query, best first."""

    query_id: str
    passage_ids: tuple[str, ...]
    grades: tuple[float, ...]  # of each passage; n, n - 1, ..., 1 where the file has none
    graded: bool  # whether the file has grades

    def pairs(self, min_grade_gap: float = 0) -> list[tuple[str, str, bool]]:
        """Every pair as (better, worse, decided).

        Undecided are those whose grades differ by less than the gap, and those both known to be of grade 0.
        """
        return [
            (self.passage_ids[i], self.passage_ids[j], self._decides(self.grades[i], self.grades[j], min_grade_gap))
            for i, j in combinations(range(len(self.passage_ids)), 2)
        ]

    def _decides(self, better: float, worse: float, min_grade_gap: float) -> bool:
        irrelevant = self.graded and better == worse == 0
        return not irrelevant and better - worse >= min_grade_gap


@dataclass(frozen=True)
class Corpus:
    """What a ranking is held against."""

    query_ids: Collection[str]  # train queries
    known: Mapping[str, str]  # id in a ranking -> id in the corpus
    representatives: Mapping[str, str]  # passage id -> first of its near-duplicates


def read_rankings(path: str, corpus: Corpus, reject: Reject) -> tuple[list[RecordedRanking], Counter[str]]:
    """The rankings that can be used, in order of query id, and counts of what was left out of them.

    A line is `{"query_id": ..., "ranking": [passage ids, best first], "grades": {passage id: number}}`, the grades
    optional. Passages that the corpus does not have are taken out of a ranking and counted, and so are near-duplicates
    of a better-ranked one. `reject` is told of every line that is not used. Raises RayrieverError when the file cannot
    be read.
    """
    rankings: dict[str, RecordedRanking] = {}
    outcomes = Counter[str]()
    for line, row in numbered_rows(path):
        outcomes["rankings_rows"] += 1
        try:
            ranking = _checked(row, rankings)
            if ranking.query_id not in corpus.query_ids:
                outcomes["rankings_no_train_query"] += 1
                continue
            kept = _fitting(ranking, corpus, outcomes)
        except _UnusableError as error:
            reject(file_name(path), line, error.query_id, str(error))
            outcomes["rankings_unusable"] += 1
        else:
            rankings[kept.query_id] = kept
    outcomes["rankings"] = len(rankings)
    return [rankings[query_id] for query_id in sorted(rankings)], outcomes


class _UnusableError(Exception):
    """Why a line is set aside."""

    def __init__(self, reason: str, query_id: str | None = None) -> None:
        super().__init__(reason)
        self.query_id = query_id


def _checked(row: dict[str, Any] | None, earlier: Collection[str]) -> RecordedRanking:
    """The line as it stands, its faults excluded."""
    if row is None:
        raise _UnusableError("not a JSON object")
    query_id, ranked = _id(row.get("query_id")), row.get("ranking")
    if query_id is None:
        raise _UnusableError('no "query_id"')
    ids = [_id(each) for each in ranked] if isinstance(ranked, list) else [None]
    if None in ids:
        raise _UnusableError('no "ranking" that is a list of passage ids', query_id)
    return _consistent(query_id, [each for each in ids if each is not None], row.get("grades"), earlier)


def _id(value: Any) -> str | None:
    """Ids are strings; exports often write them as numbers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value and is_unicode(value) else None


def _consistent(query_id: str, ids: list[str], grades: Any, earlier: Collection[str]) -> RecordedRanking:
    if query_id in earlier:
        raise _UnusableError("this query is ranked in an earlier line", query_id)
    repeated = sorted(passage_id for passage_id, count in Counter(ids).items() if count > 1)
    if repeated:
        raise _UnusableError(f"ranks {repeated[0]!r} more than once", query_id)
    if grades is None:
        return RecordedRanking(query_id, tuple(ids), _descending(len(ids)), graded=False)
    return RecordedRanking(query_id, tuple(ids), _grades(grades, ids, query_id), graded=True)


def _descending(count: int) -> tuple[float, ...]:
    return tuple(float(grade) for grade in range(count, 0, -1))


def _grades(grades: Any, ids: list[str], query_id: str) -> tuple[float, ...]:
    if not isinstance(grades, dict):
        raise _UnusableError('"grades" is not an object of passage id to number', query_id)
    found: list[float] = []
    for passage_id in ids:
        grade = grades.get(passage_id)
        if not is_number(grade) or grade < 0:
            raise _UnusableError(f"{passage_id!r} has no grade that is a number from 0", query_id)
        if found and grade > found[-1]:
            raise _UnusableError(f"{passage_id!r} has a higher grade than the passage ranked before it", query_id)
        found.append(float(grade))
    return tuple(found)


def _fitting(ranking: RecordedRanking, corpus: Corpus, outcomes: Counter[str]) -> RecordedRanking:
    """The ranking of what the corpus has, without near-duplicates; nothing is counted for a line that is not used."""
    kept: dict[str, tuple[str, float]] = {}  # by group of near-duplicates
    unknown = duplicates = 0
    for recorded_id, grade in zip(ranking.passage_ids, ranking.grades, strict=True):
        passage_id = corpus.known.get(recorded_id)
        if passage_id is None:
            unknown += 1
            continue
        group = corpus.representatives.get(passage_id, passage_id)
        duplicates += group in kept
        kept.setdefault(group, (passage_id, grade))
    if len(kept) < 2:
        raise _UnusableError("ranks fewer than two distinct passages of the corpus", ranking.query_id)
    outcomes["passages_unknown"] += unknown
    outcomes["near_duplicates_removed"] += duplicates
    ids, grades = zip(*kept.values(), strict=True)
    return RecordedRanking(ranking.query_id, ids, grades if ranking.graded else _descending(len(ids)), ranking.graded)
