"""Examples on disk, read by row: a training set larger than memory, and the same order for every worker."""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import overload

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.training.examples import Example, from_table
from pipeline.workspace import Workspace

# Rows decoded together from Parquet: bounds the memory of a copy, whatever the size of the parts.
_ROWS_PER_BATCH = 256


class ExampleStore(Sequence[Example]):
    """A sequence over Parquet parts of records.TRAINING_EXAMPLE.

    Parquet cannot be read by row, so the parts are copied once, batch by batch, into an Arrow file that the operating
    system maps into memory and drops from it at will. The file has no name, so that it vanishes with its process.
    """

    def __init__(self, workspace: Workspace, parts: Sequence[str]) -> None:
        counts = [0]
        descriptor, path = tempfile.mkstemp(prefix="rayriever-examples-", suffix=".arrow")
        os.close(descriptor)
        schema = pq.read_schema(parts[0], filesystem=workspace.filesystem)
        with pa.ipc.new_file(path, schema) as writer:
            for part in parts:
                with workspace.filesystem.open_input_file(part) as stream:
                    for batch in pq.ParquetFile(stream).iter_batches(_ROWS_PER_BATCH):
                        writer.write_batch(batch)
                        counts.append(batch.num_rows)
        self._file = pa.ipc.open_file(pa.memory_map(path))
        os.unlink(path)
        self._starts = list(accumulate(counts))

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
