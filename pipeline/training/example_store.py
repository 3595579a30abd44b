"""Examples on disk, read by row: a training set larger than memory, and the same order for every worker."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.training.mapped import mapped
from pipeline.workspace import Workspace

# Rows decoded together from Parquet: bounds the memory of a copy, whatever the size of the parts.
_ROWS_PER_BATCH = 256


Row = TypeVar("Row")


@dataclass(frozen=True)
class RowKind(Generic[Row]):
    """How rows of a table become examples."""

    schema: pa.Schema
    conform: Callable[[pa.RecordBatch], pa.RecordBatch]  # to the schema, whatever version wrote it
    decode: Callable[[pa.RecordBatch], list[Row]]


class ExampleStore(Sequence[Row]):
    """A sequence over Parquet parts.

    Parquet cannot be read by row, so the parts are copied once, batch by batch, into a mapped file.
    """

    def __init__(self, workspace: Workspace, parts: Sequence[str], kind: RowKind[Row]) -> None:
        self._starts, self._kind = [0], kind
        self._file = mapped(self._batches(workspace, parts), kind.schema)

    def _batches(self, workspace: Workspace, parts: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for part in parts:
            with workspace.filesystem.open_input_file(part) as stream:
                for batch in pq.ParquetFile(stream).iter_batches(_ROWS_PER_BATCH):
                    self._starts.append(self._starts[-1] + batch.num_rows)
                    yield self._kind.conform(batch)

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, row: int) -> Row: ...

    @overload
    def __getitem__(self, row: slice) -> list[Row]: ...

    def __getitem__(self, row: int | slice) -> Row | list[Row]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(row)
        batch = bisect_right(self._starts, row) - 1
        return self._kind.decode(self._file.get_batch(batch).slice(row - self._starts[batch], 1))[0]
