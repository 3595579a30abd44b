"""Shards of passage texts: Parquet sorted by id, with the same Arrow file of ids that index shards have."""

from __future__ import annotations

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
_GROUP_ROWS = 2_000


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


class PassageTexts:
    """The passages of a generation by id, its files checked once."""

    def __init__(self, folder: ShardFolder, generation: Generation) -> None:
        self._shards = []
        for shard in generation.shards[PASSAGES]:
            ids, texts = folder.fetch([shard.files[IDS], shard.files[TEXTS]])
            self._shards.append((IdMap.open(ids), dead_rows(folder, shard), texts))

    def lookup(self, wanted: Sequence[str]) -> dict[str, dict[str, object]]:
        """Rows of the passages with these ids; ids that are not there, or deleted, are left out."""
        found: dict[str, dict[str, object]] = {}
        for ids, dead, texts in self._shards:
            rows = np.setdiff1d(ids.rows(wanted), dead)
            if len(rows):
                chosen = pq.read_table(texts, filters=pc.field("passage_id").isin(ids.of(rows)))
                found |= {row["passage_id"]: row for row in chosen.to_pylist()}
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
            for batch in parquet.iter_batches(_GROUP_ROWS):
                mask: npt.NDArray[np.bool_] = keep[start : start + batch.num_rows]
                start += batch.num_rows
                yield pa.Table.from_batches([batch]).filter(pa.array(mask))


def rows_of(folder: ShardFolder, shards: Sequence[ShardFiles]) -> Rows:
    """The texts of passage shards, for those who read a corpus."""
    parts = tuple(f"{folder.path}/{shard.files[TEXTS].path}" for shard in shards)
    return Rows(folder.uri, parts, tuple(shard.rows for shard in shards))
