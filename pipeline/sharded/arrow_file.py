"""Tables in Arrow files on this machine, mapped into memory when they are read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa


def write_arrow(path: Path, table: pa.Table) -> None:
    """One batch per chunk of the table: one that was combined is read without a copy."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_arrow(path: Path) -> pa.Table:
    """The table, in the file's own memory."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        return reader.read_all()
