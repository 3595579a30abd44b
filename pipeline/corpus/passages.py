"""Rows -> Arrow tables of passages, in parts of bounded size."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import overload

import pyarrow as pa

from pipeline import records
from pipeline.corpus.rows import Row

ROWS_PER_PART = 50_000
# One Arrow string column holds at most 2 GiB, and a character takes up to four bytes.
_CHARACTERS_PER_PART = 1 << 27


def passage_parts(rows: Iterable[Row]) -> Iterator[pa.Table]:
    """Yield records.PASSAGE tables of at most 50,000 rows and about 128 million characters."""
    part: list[Row] = []
    characters = 0
    for row in rows:
        part.append(row)
        characters += len(row.title) + len(row.text)
        if len(part) == ROWS_PER_PART or characters >= _CHARACTERS_PER_PART:
            yield passage_table(part)
            part, characters = [], 0
    if part:
        yield passage_table(part)


def passage_table(rows: Sequence[Row]) -> pa.Table:
    """Return the rows as one records.PASSAGE table."""
    columns = {name: [getattr(row, name) for row in rows] for name in records.PASSAGE.names}
    return pa.table(columns, schema=records.PASSAGE)


class PassageTexts(Sequence[str]):
    """Title and text of each passage, made on demand: Arrow holds them in less space than Python strings."""

    def __init__(self, parts: Sequence[pa.Table]) -> None:
        self._columns = [(part["title"].combine_chunks(), part["text"].combine_chunks()) for part in parts]
        self._ends = list(accumulate(part.num_rows for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> list[str]: ...
    def __getitem__(self, position: int | slice) -> str | list[str]:
        if isinstance(position, slice):
            return [self[each] for each in range(*position.indices(len(self)))]
        if not 0 <= position < len(self):
            raise IndexError(position)
        part = bisect_right(self._ends, position)
        titles, texts = self._columns[part]
        row = position - (self._ends[part - 1] if part else 0)
        return f"{titles[row].as_py()}\n{texts[row].as_py()}"
