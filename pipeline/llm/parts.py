"""A folder of Parquet parts that many processes append to at once and any of them may die doing so.

A part is written whole or not at all, under a name nobody else has, and never changed once it has settled. Rows may be
there twice when a compaction was cut short: readers drop duplicates.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.workspace import Workspace, explained_write_errors

log = logging.getLogger(__name__)

_READERS = 8  # small parts read at a time: on an object store each costs a round trip
_ROWS_AT_A_TIME = 10_000
_READ_AHEAD_BYTES = 1 << 20  # larger parts are read when it is their turn
_SMALL_BYTES = 8 << 20  # larger parts are left as they are
_MERGED_BYTES = 16 << 20  # of small parts merged into one; they pass through memory
_GROWN_BYTES = 1 << 17  # of a part that is still written to: it is written whole with every append
_GROWS_S = 60.0  # after which a part is left as it is
# Age from which on nobody writes to a part any more, clocks that differ allowed for: merged while it grows, it would
# lose what comes in between reading it and deleting it.
_SETTLED_S = 900.0
_WORTH_MERGING = 32  # small parts below which merging costs more than it saves


class PartFolder:
    """Rows below `folder` of a workspace; a `PartWriter` appends to them."""

    def __init__(self, workspace: Workspace, folder: tuple[str, ...], schema: pa.Schema) -> None:
        self.workspace = workspace
        self.folder = folder
        self.schema = schema

    def read(self, columns: list[str], keep: Callable[[pa.Table], pa.Table] | None = None) -> pa.Table:
        """The rows of all readable parts that `keep` lets through."""
        none = self._schema_of(columns).empty_table()
        return pa.concat_tables([none, *(keep(rows) if keep else rows for rows in self.scan(columns))])

    def scan(self, columns: list[str]) -> Iterator[pa.Table]:
        """The rows of all readable parts, some 10,000 at a time; little more is held.

        A part that is merged meanwhile is read again from the merged one: no row is missed, some come twice.
        """
        schema = self._schema_of(columns)
        seen: set[str] = set()
        with ThreadPoolExecutor(_READERS) as readers:
            while True:
                parts = {path: size for path, size in self._sizes().items() if path not in seen}
                seen |= parts.keys()
                vanished: list[str] = []
                waiting: list[pa.Table] = []
                rows = 0
                for piece in self._in_turn(parts, schema, readers, vanished):
                    waiting.append(piece)
                    rows += piece.num_rows
                    if rows >= _ROWS_AT_A_TIME:
                        yield pa.concat_tables(waiting)
                        waiting, rows = [], 0
                if waiting:
                    yield pa.concat_tables(waiting)
                if not vanished:
                    return

    def _in_turn(
        self, parts: dict[str, int], schema: pa.Schema, readers: ThreadPoolExecutor, vanished: list[str]
    ) -> Iterator[pa.Table]:
        """Row groups of one part after the other; those of small parts are read ahead. Notes what is not there."""
        ahead: deque[Future[list[pa.Table]]] = deque()
        for path, size in parts.items():
            if size > _READ_AHEAD_BYTES:
                yield from self._pieces(path, schema, vanished)
                continue
            ahead.append(readers.submit(lambda part: list(self._pieces(part, schema, vanished)), path))
            if len(ahead) > _READERS:
                yield from ahead.popleft().result()
        for future in ahead:
            yield from future.result()

    def _schema_of(self, columns: list[str]) -> pa.Schema:
        return pa.schema([self.schema.field(name) for name in columns])

    def compact(self) -> None:
        """Merge small parts. The new part is there before the old ones go, so a kill in between loses nothing."""
        filesystem = self.workspace.filesystem
        small = {
            path: size for path, size in self._sizes().items() if size < _SMALL_BYTES and _age_s(path) > _SETTLED_S
        }
        if len(small) < _WORTH_MERGING:
            return
        for group in _groups(small):
            readable = {path: pieces for path in group if (pieces := list(self._pieces(path, self.schema, [])))}
            if len(readable) < 2:
                continue
            merged = pa.concat_tables([piece for pieces in readable.values() for piece in pieces])
            self.write(self.new_name("merged"), merged)
            for path in readable:
                with suppress(FileNotFoundError):  # another run merges, too
                    filesystem.delete_file(path)

    def new_name(self, kind: str) -> str:
        return f"{kind}-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"

    def write(self, name: str, rows: pa.Table) -> None:
        with explained_write_errors(self.workspace.uri):
            path = self.workspace.path(*self.folder, name)
            self.workspace.write_table(path, rows.cast(self.schema), rows_per_group=_ROWS_AT_A_TIME)

    def _sizes(self) -> dict[str, int]:
        """Bytes by path of every part, in the order of their names."""
        infos = self.workspace.list_file_infos(*self.folder)
        return {info.path: info.size or 0 for info in infos if info.path.endswith(".parquet")}

    def _pieces(self, path: str, schema: pa.Schema, vanished: list[str]) -> Iterator[pa.Table]:
        """Row groups of one part; what cannot be read is left out, as if it had never been written."""
        try:
            with pq.ParquetFile(path, filesystem=self.workspace.filesystem) as part:
                known = [name for name in schema.names if name in part.schema_arrow.names]
                for group in range(part.num_row_groups):
                    yield _completed(part.read_row_group(group, columns=known), schema)
        except FileNotFoundError:
            vanished.append(path)  # merged by another process meanwhile
        except (pa.ArrowException, OSError, KeyError) as error:
            log.warning("%s cannot be read and is left out: %s", path, error)


class PartWriter:
    """Appends rows for one process, in parts that grow: a part for every few rows would be a million small files.

    The newest part is written again whole with what was added, in the place of its former self, until it is a minute
    old or large enough.
    """

    def __init__(self, folder: PartFolder) -> None:
        self._folder, self._name = folder, ""
        self._rows = folder.schema.empty_table()

    def append(self, rows: pa.Table) -> None:
        """Durable on return. Raises RayrieverError when the workspace cannot be written."""
        if not rows.num_rows:
            return
        if not self._name or self._rows.nbytes + rows.nbytes > _GROWN_BYTES or _age_s(self._name) > _GROWS_S:
            self._name, self._rows = self._folder.new_name("part"), self._folder.schema.empty_table()
        grown = pa.concat_tables([self._rows, rows.cast(self._folder.schema)]).combine_chunks()
        self._folder.write(self._name, grown)
        self._rows = grown


def _age_s(path: str) -> float:
    """Seconds since the part was begun, by its name."""
    began_ns = int(path.rsplit("/", 1)[-1].split("-")[1])
    return (time.time_ns() - began_ns) / 1e9


def _completed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """With the columns that an earlier version did not write: nothing was counted there."""
    for field in schema:
        if field.name not in rows.column_names:
            empty = pa.nulls(rows.num_rows, field.type)
            rows = rows.append_column(field, empty.fill_null(0) if pa.types.is_integer(field.type) else empty)
    return rows.select(schema.names).cast(schema)


def _groups(sizes: dict[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    for path in sizes:
        group.append(path)
        if sum(sizes[each] for each in group) >= _MERGED_BYTES:
            yield group
            group = []
    if group:
        yield group
