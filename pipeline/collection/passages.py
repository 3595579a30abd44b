"""Shards of passage texts: Parquet sorted by id, with the same Arrow file of ids that index shards have."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.records import PASSAGE
from pipeline.sharded.folder import PASSAGES, Generation, ShardFiles, ShardFolder
from pipeline.sharded.ids import IDS, IdMap, dead_rows
from pipeline.sharded.rows import Rows

TEXTS = "texts"
_SHARD_ROWS = 100_000
# Rows that are read to get at one of them
_GROUP_ROWS = 100
_BATCH_ROWS = 2_000


def write_shard(passages: pa.Table, folder: ShardFolder, name: str) -> ShardFiles:
    """Rows of `records.PASSAGE` as a shard."""
    ordered = passages.select(PASSAGE.names).cast(PASSAGE).sort_by("passage_id")
    with folder.scratch() as scratch:
        files = {TEXTS: scratch / "shard.passages.parquet", IDS: scratch / "shard.ids.arrow"}
        pq.write_table(ordered, files[TEXTS], compression="zstd", row_group_size=_GROUP_ROWS)
        IdMap(pa.concat_arrays([pa.array([], pa.string()), *ordered["passage_id"].chunks])).save(files[IDS])
        return folder.add_shard(ordered.num_rows, name, files)


def write_shards(pieces: Iterable[pa.Table], folder: ShardFolder, prefix: str) -> list[ShardFiles]:
    """Rows of `records.PASSAGE`, however many, as shards of bounded size."""
    shards: list[ShardFiles] = []
    held: list[pa.Table] = []
    for piece in pieces:
        held.append(piece)
        if sum(each.num_rows for each in held) >= _SHARD_ROWS:
            shards.append(write_shard(pa.concat_tables(held), folder, f"{prefix}passages-{len(shards):04d}"))
            held = []
    if held:
        shards.append(write_shard(pa.concat_tables(held), folder, f"{prefix}passages-{len(shards):04d}"))
    return shards


class TextShard:
    """The passages of one shard by id; its files are checked when it is opened. May be used by many threads."""

    def __init__(self, folder: ShardFolder, files: ShardFiles) -> None:
        ids, texts = folder.fetch([files.files[IDS], files.files[TEXTS]])
        self._ids, self._dead = IdMap.open(ids), dead_rows(folder, files)
        self._path, self._texts = texts, pq.ParquetFile(texts, memory_map=True)
        self._starts = np.cumsum([0, *(self._texts.metadata.row_group(i).num_rows for i in range(self._groups))])
        self._reading = threading.Lock()

    @property
    def _groups(self) -> int:
        return int(self._texts.metadata.num_row_groups)

    def lookup(self, wanted: Sequence[str]) -> dict[str, dict[str, object]]:
        """Rows of the passages with these ids; ids that are not there, or deleted, are left out."""
        rows = np.setdiff1d(self._ids.rows(wanted), self._dead)
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        found: dict[str, dict[str, object]] = {}
        for group in np.unique(groups):
            with self._reading:
                read = self._texts.read_row_group(int(group), use_threads=False)
            chosen = read.take(pa.array(rows[groups == group] - self._starts[group]))
            found |= {row["passage_id"]: row for row in chosen.to_pylist()}
        return found

    def matching(self, condition: pc.Expression) -> list[str]:
        """Ids, ascending, of the passages for which an expression over their columns holds."""
        found = pq.read_table(self._path, columns=["passage_id"], filters=condition)["passage_id"].combine_chunks()
        ids: list[str] = self._ids.of(np.setdiff1d(self._ids.rows(found.to_pylist()), self._dead)).to_pylist()
        return ids

    def sample(self, count: int) -> list[dict[str, object]]:
        """Some rows, spread over the shard, deleted ones left out."""
        rows = np.setdiff1d(np.linspace(0, len(self._ids) - 1, min(count, len(self._ids)), dtype=np.int64), self._dead)
        return list(self.lookup(self._ids.of(rows).to_pylist()).values())


class PassageTexts:
    """The passages of a generation by id."""

    def __init__(self, folder: ShardFolder, generation: Generation) -> None:
        self._shards = [TextShard(folder, files) for files in generation.shards[PASSAGES]]

    def lookup(self, wanted: Sequence[str]) -> dict[str, dict[str, object]]:
        """Rows of the passages with these ids; ids that are not there, or deleted, are left out."""
        found: dict[str, dict[str, object]] = {}
        for shard in self._shards:
            found |= shard.lookup(wanted)
        return found


def living(folder: ShardFolder, generation: Generation) -> int:
    """Passages that are not deleted."""
    return sum(shard.rows - len(dead_rows(folder, shard)) for shard in generation.shards[PASSAGES])


def alive(folder: ShardFolder, generation: Generation) -> Iterator[pa.Table]:
    """All passages that are not deleted, in pieces."""
    for shard in generation.shards[PASSAGES]:
        (path,) = folder.fetch([shard.files[TEXTS]])
        keep = np.ones(shard.rows, dtype=bool)
        keep[dead_rows(folder, shard)] = False
        start = 0
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(_BATCH_ROWS):
                mask: npt.NDArray[np.bool_] = keep[start : start + batch.num_rows]
                start += batch.num_rows
                yield pa.Table.from_batches([batch]).filter(pa.array(mask))


def rows_of(folder: ShardFolder, shards: Sequence[ShardFiles]) -> Rows:
    """The texts of passage shards, for those who read a corpus."""
    parts = tuple(f"{folder.path}/{shard.files[TEXTS].path}" for shard in shards)
    return Rows(folder.uri, parts, tuple(shard.rows for shard in shards))
