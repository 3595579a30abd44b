"""A query's passages before and after a teacher has put them in order, and what the teacher said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import records
from pipeline.llm.parsers.permutation import Outcome

Confidence = npt.NDArray[np.float32]
Teacher = Literal["listwise", "setwise", "fusion", "recorded"]


@dataclass(frozen=True)
class Query:
    """What a list is about."""

    query_id: str
    text: str
    kind: str


@dataclass(frozen=True)
class UnrankedList:
    """A query and its candidates in fused order."""

    query: Query
    passage_ids: tuple[str, ...]


@dataclass(frozen=True)
class Said:
    """One row of `records.PERMUTATION`."""

    query_id: str
    number: int  # of the pass
    window: int
    shown: tuple[str, ...]
    ranked: tuple[str, ...]
    answer: str | None
    outcome: Outcome | Literal["error", "recorded"]


@dataclass(frozen=True, eq=False)
class RankedList:
    """One row of `records.RANKED_LIST`."""

    query: Query
    teacher: Teacher
    passage_ids: tuple[str, ...]  # [n] best first
    scores: tuple[float, ...]  # [n]
    confidence: Confidence  # [n (n - 1) / 2] of pairs (i, j), i < j, row by row


@dataclass(frozen=True)
class Taught:
    """What a teacher made of lists."""

    lists: list[RankedList]
    said: list[Said]

    def ranked_lists(self) -> pa.Table:
        """Rows of `records.RANKED_LIST`."""
        columns: list[list[object]] = [
            [each.query.query_id for each in self.lists],
            [each.query.text for each in self.lists],
            [each.query.kind for each in self.lists],
            [each.teacher for each in self.lists],
            [each.passage_ids for each in self.lists],
            [each.scores for each in self.lists],
            [each.confidence for each in self.lists],
        ]
        return _table(columns, records.RANKED_LIST)

    def permutations(self) -> pa.Table:
        """Rows of `records.PERMUTATION`."""
        columns: list[list[object]] = [
            [getattr(each, name) for each in self.said] for name in records.PERMUTATION.names
        ]
        return _table(columns, records.PERMUTATION)


def _table(columns: Iterable[list[object]], schema: pa.Schema) -> pa.Table:
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
