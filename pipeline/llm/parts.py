"""A folder of Parquet parts that many processes append to at once and any of them may die doing so.

A part is written whole or not at all, under a name nobody else has, and never changed once it has settled. Rows may be
there twice when a compaction was cut short: readers drop duplicates.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.workspace import Workspace, explained_write_errors

log = logging.getLogger(__name__)

_READERS = 8  # parts read at a time: on an object store each costs a round trip
_ROWS_AT_A_TIME = 10_000
_SMALL_BYTES = 8 << 20  # larger parts are left as they are
_MERGED_BYTES = 64 << 20  # of small parts merged into one
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
        """The rows of all readable parts, passed through `keep` some 10,000 at a time so that little is held."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        kept, waiting, rows = [], [schema.empty_table()], 0
        with ThreadPoolExecutor(_READERS) as readers:
            for pieces in readers.map(lambda path: list(self._pieces(path, schema)), self._paths()):
                waiting += pieces
                rows += sum(piece.num_rows for piece in pieces)
                if rows >= _ROWS_AT_A_TIME:
                    kept.append(_through(keep, waiting))
                    waiting, rows = [schema.empty_table()], 0
        return pa.concat_tables([*kept, _through(keep, waiting)])

    def compact(self) -> None:
        """Merge small parts. The new part is there before the old ones go, so a kill in between loses nothing."""
        filesystem = self.workspace.filesystem
        settled = [path for path in self._paths() if _age_s(path) > _SETTLED_S]
        sizes = {info.path: info.size or 0 for info in filesystem.get_file_info(settled)}
        small = [path for path, size in sizes.items() if size < _SMALL_BYTES]
        if len(small) < _WORTH_MERGING:
            return
        for group in _groups(small, sizes):
            readable = {path: pieces for path in group if (pieces := list(self._pieces(path, self.schema)))}
            if len(readable) < 2:
                continue
            merged = pa.concat_tables([piece for pieces in readable.values() for piece in pieces])
            self.write(self.new_name("merged"), merged)
            for path in readable:
                filesystem.delete_file(path)

    def new_name(self, kind: str) -> str:
        return f"{kind}-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"

    def write(self, name: str, rows: pa.Table) -> None:
        with explained_write_errors(self.workspace.uri):
            self.workspace.write_table(self.workspace.path(*self.folder, name), rows.cast(self.schema))

    def _paths(self) -> list[str]:
        return [path for path in self.workspace.list_files(*self.folder) if path.endswith(".parquet")]

    def _pieces(self, path: str, schema: pa.Schema) -> Iterator[pa.Table]:
        """Row groups of one part; what cannot be read is left out, as if it had never been written."""
        try:
            with pq.ParquetFile(path, filesystem=self.workspace.filesystem) as part:
                known = [name for name in schema.names if name in part.schema_arrow.names]
                for group in range(part.num_row_groups):
                    yield _completed(part.read_row_group(group, columns=known), schema)
        except FileNotFoundError:
            return  # merged by another process meanwhile
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


def _through(keep: Callable[[pa.Table], pa.Table] | None, pieces: list[pa.Table]) -> pa.Table:
    rows = pa.concat_tables(pieces)
    return keep(rows) if keep else rows


def _groups(paths: list[str], sizes: dict[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    for path in paths:
        group.append(path)
        if sum(sizes[each] for each in group) >= _MERGED_BYTES:
            yield group
            group = []
    if group:
        yield group
