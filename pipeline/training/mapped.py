"""Rows in an Arrow file that the operating system maps into memory and drops from it at will."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable

import pyarrow as pa


def mapped(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.ipc.RecordBatchFileReader:
    """The same batches, read from a file on this machine. It has no name, so that it vanishes with its process."""
    descriptor, path = tempfile.mkstemp(prefix="rayriever-", suffix=".arrow")
    os.close(descriptor)
    try:
        with pa.ipc.new_file(path, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        return pa.ipc.open_file(pa.memory_map(path))
    finally:
        os.unlink(path)
