"""Examples on disk, read by row: a training set larger than memory, and the same order for every worker."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import overload

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records import TRAINING_EXAMPLE
from pipeline.training.examples import Example, from_table
from pipeline.training.mapped import mapped
from pipeline.workspace import Workspace

# Rows decoded together from Parquet: bounds the memory of a copy, whatever the size of the parts.
_ROWS_PER_BATCH = 256


class ExampleStore(Sequence[Example]):
    """A sequence over Parquet parts of records.TRAINING_EXAMPLE.

    Parquet cannot be read by row, so the parts are copied once, batch by batch, into a mapped file.
    """

    def __init__(self, workspace: Workspace, parts: Sequence[str]) -> None:
        self._starts = [0]
        self._file = mapped(self._batches(workspace, parts), TRAINING_EXAMPLE)

    def _batches(self, workspace: Workspace, parts: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for part in parts:
            with workspace.filesystem.open_input_file(part) as stream:
                for batch in pq.ParquetFile(stream).iter_batches(_ROWS_PER_BATCH):
                    self._starts.append(self._starts[-1] + batch.num_rows)
                    yield _conformed(batch)

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, row: int) -> Example: ...

    @overload
    def __getitem__(self, row: slice) -> list[Example]: ...

    def __getitem__(self, row: int | slice) -> Example | list[Example]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(row)
        batch = bisect_right(self._starts, row) - 1
        return from_table(self._file.get_batch(batch).slice(row - self._starts[batch], 1))[0]


def _conformed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """With every column of the schema: rows of an earlier version have no weight."""
    if "weight" not in batch.schema.names:
        batch = batch.append_column("weight", pa.array([1.0] * batch.num_rows))
    return batch.select(TRAINING_EXAMPLE.names).cast(TRAINING_EXAMPLE)
