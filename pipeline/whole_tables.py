"""Tables that Ray Data neither cuts nor joins: each is a row of lists, in batches of one.

Without a batch size, where a block would go to an actor as it is, Ray Data gives out no GPUs.
"""

from __future__ import annotations

import pyarrow as pa


def as_row(table: pa.Table) -> pa.Table:
    """One row, each cell of which is a column of the table. Copies nothing but what was in several chunks."""
    offsets = pa.array([0, table.num_rows], pa.int32())
    columns = [pa.ListArray.from_arrays(offsets, _one(table[name])) for name in table.column_names]
    return pa.table(columns, names=table.column_names)


def from_row(row: pa.Table) -> pa.Table:
    """The table of which `as_row` made the row."""
    return pa.table([_one(row[name]).flatten() for name in row.column_names], names=row.column_names)


def _one(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        raise ValueError(f"{combined.nbytes:,} bytes of {combined.type} are too many for one array.")
    return combined
