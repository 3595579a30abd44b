"""Which passage a row of a shard is, and which rows are deleted.

Ids are an Arrow file in ascending order, mapped instead of read; deleted rows are a NumPy file beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sharded.arrow_file import read_arrow, write_arrow
from pipeline.sharded.folder import ShardFiles, ShardFolder

# Roles of a shard's files
IDS, DEAD = "ids", "dead"
_SCHEMA = pa.schema([pa.field("passage_id", pa.string(), nullable=False)])
# Below this many ids, looking each up takes less than comparing all of a shard.
_FEW = 4096


class IdMap:
    """The ids of a shard's rows, in memory or in a mapped file."""

    def __init__(self, ids: pa.Array) -> None:
        self.ids = ids

    @classmethod
    def open(cls, path: Path) -> IdMap:
        table = read_arrow(path)
        if not table.schema.equals(_SCHEMA):
            raise ValueError(f"columns {', '.join(table.schema.names)} instead of passage_id")
        ids = table["passage_id"].combine_chunks()
        return cls(ids if isinstance(ids, pa.Array) else pa.array([], pa.string()))

    def save(self, path: Path) -> None:
        write_arrow(path, pa.Table.from_arrays([self.ids], schema=_SCHEMA))

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, rows: npt.NDArray[np.int64]) -> pa.Array:
        """Ids of the rows, in that order; row -1 gives null."""
        return self.ids.take(pa.array(rows, mask=rows < 0))

    def rows(self, wanted: Iterable[str]) -> npt.NDArray[np.int64]:
        """Rows of those wanted ids that are here, ascending."""
        chosen = sorted(set(wanted))
        if len(chosen) > _FEW:
            return np.flatnonzero(pc.is_in(self.ids, pa.array(chosen, pa.string())).to_numpy(zero_copy_only=False))
        rows = (self._row(each) for each in chosen)
        return np.array([row for row in rows if row is not None], dtype=np.int64)

    def _row(self, wanted: str) -> int | None:
        low, high = 0, len(self.ids)
        while low < high:
            middle = (low + high) // 2
            if self.ids[middle].as_py() < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self.ids) and self.ids[low].as_py() == wanted else None


def dead_rows(folder: ShardFolder, shard: ShardFiles) -> npt.NDArray[np.int64]:
    """Deleted rows of a shard, ascending."""
    if DEAD not in shard.files:
        return np.empty(0, dtype=np.int64)
    found: npt.NDArray[np.int64] = np.load(folder.fetch([shard.files[DEAD]])[0], allow_pickle=False)
    return found


def without(folder: ShardFolder, shard: ShardFiles, passage_ids: Iterable[str], name: str) -> ShardFiles:
    """The shard with these passages deleted: the same files, and a new one of deleted rows called `name`."""
    rows = IdMap.open(folder.fetch([shard.files[IDS]])[0]).rows(passage_ids)
    before = dead_rows(folder, shard)
    after = np.union1d(before, rows)
    if len(after) == len(before):
        return shard
    with folder.scratch() as scratch:
        path = scratch / "dead.npy"
        np.save(path, after, allow_pickle=False)
        return replace(shard, files={**shard.files, DEAD: folder.add(path, f"{name}.dead.npy")})
