"""Rows of a finished table looked up by a key, time and again, without reading the table again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.artifact import Artifact
from pipeline.training.mapped import mapped


class KeyedRows:
    """The rows of a table by the text in one of its columns.

    The table is copied once into a mapped file; 16 bytes per row stay in memory.
    """

    def __init__(self, artifact: Artifact, table: str, key: str, columns: Sequence[str] | None = None) -> None:
        """`columns`, `key` among them, are what a row has; default: all."""
        self._key = key
        schema = pq.read_schema(artifact.parts(table)[0], filesystem=artifact.workspace.filesystem)
        names = list(columns or schema.names)
        hashes, starts = [np.empty(0, np.int64)], [0]

        def counted() -> Iterator[pa.RecordBatch]:
            for piece in artifact.batches(table, names):
                for batch in piece.select(names).to_batches():
                    hashes.append(_hashes(batch[key].to_pylist()))
                    starts.append(starts[-1] + len(batch))
                    yield batch

        self._file = mapped(counted(), pa.schema([schema.field(name) for name in names]))
        self._starts = np.array(starts)
        whole = np.concatenate(hashes)
        self._order = np.argsort(whole, kind="stable")
        self._hashes = whole[self._order]

    def of(self, keys: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """Key -> its rows in the order of the table; keys without rows are absent."""
        asked = pa.array(sorted(set(keys)), pa.string())
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        rows = self._candidates(asked.to_pylist())
        batches, begins = np.unique(np.searchsorted(self._starts, rows, side="right") - 1, return_index=True)
        for number, chosen in zip(batches, np.split(rows, begins[1:]), strict=False):
            taken = self._file.get_batch(int(number)).take(pa.array(chosen - self._starts[number]))
            # Different keys may have the same hash.
            for row in taken.filter(pc.is_in(taken[self._key], asked)).to_pylist():
                found[row[self._key]].append(row)
        return dict(found)

    def _candidates(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """Numbers, ascending, of the rows whose key has the hash of one of `keys`."""
        hashes = np.unique(_hashes(keys))
        first = np.searchsorted(self._hashes, hashes, side="left")
        last = np.searchsorted(self._hashes, hashes, side="right")
        counts = last - first
        # All of first[i]:last[i] one after the other.
        places = np.repeat(last - np.cumsum(counts), counts) + np.arange(counts.sum())
        return np.sort(self._order[places])


def _hashes(keys: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(hash, keys), np.int64, len(keys))
