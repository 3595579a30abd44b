"""Answers in the order of their requests, by way of the disk: of neither does memory hold more than a few thousand."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RayrieverError
from pipeline.records import LLM_REQUEST, LLM_RESPONSE

_ROWS_AT_A_TIME = 10_000
_MOST_FILES = 256  # open at once; many systems allow 1,024

Ids = npt.NDArray[np.bytes_]
Places = npt.NDArray[np.int64]  # numbers of rows in the order of the requests, from 0
Flags = npt.NDArray[np.bool_]  # one per place


def ids_of(rows: pa.Table) -> Ids:
    """Request ids as an array of fixed width: a third of the memory of Python's strings, and to be searched."""
    return np.array(rows["request_id"].to_pylist(), dtype=np.bytes_)


def first_of_each(values: npt.NDArray[Any]) -> Flags:
    """True where a sorted array has a value for the first time."""
    return np.concatenate([np.ones(len(values[:1]), np.bool_), values[1:] != values[:-1]])


class _Rows:
    """Rows in a temporary file without a name: it is gone with this process, however that ends."""

    def __init__(self, schema: pa.Schema) -> None:
        with _explained():
            self._file = tempfile.TemporaryFile(prefix="rayriever-")  # noqa: SIM115 (closed by `close`)
            self._writer = pa.ipc.new_stream(self._file, schema)

    def add(self, rows: pa.Table) -> None:
        with _explained():
            self._writer.write_table(rows)

    def batches(self) -> Iterator[pa.Table]:
        """What was added, piece by piece. Nothing more can be added."""
        with _explained():
            self._writer.close()
            self._file.seek(0)
        with pa.ipc.open_stream(self._file) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])

    def close(self) -> None:
        self._file.close()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RayrieverError(
            f"temporary files in {tempfile.gettempdir()}: {error}. They hold the requests and answers that memory does "
            "not. Free space there, or set the environment variable TMPDIR to a larger folder."
        ) from error


class Spool:
    """The LLM_REQUEST rows of one call: their ids in memory, all else in a temporary file."""

    def __init__(self, requests: Iterable[pa.Table]) -> None:
        self._rows = _Rows(LLM_REQUEST)
        ids = [np.empty(0, np.bytes_)]
        for chunk in _of_size(requests, _ROWS_AT_A_TIME):
            self._rows.add(chunk)
            ids.append(ids_of(chunk))
        self.ids = np.concatenate(ids)

    def chunks(self) -> Iterator[pa.Table]:
        """The rows, in order; the same chunks every time, and in every call with the same requests."""
        return self._rows.batches()

    def close(self) -> None:
        self._rows.close()


def _of_size(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The rows of all tables in chunks of `size`, the last one shorter; each in one piece."""
    waiting = LLM_REQUEST.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while waiting.num_rows >= size:
            yield waiting.slice(0, size).combine_chunks()
            waiting = waiting.slice(size)
    if waiting.num_rows:
        yield waiting.combine_chunks()


class Order:
    """Which places an id has: several, where requests are equal."""

    def __init__(self, ids: Ids) -> None:
        self.count = len(ids)
        self._places = np.argsort(ids, kind="stable")
        self._ids = ids[self._places]

    def first(self) -> Flags:
        """True at the first place of every id."""
        found = np.zeros(self.count, np.bool_)
        found[self._places[first_of_each(self._ids)]] = True
        return found

    def match(self, ids: Ids) -> tuple[npt.NDArray[np.int64], Places]:
        """Every place of every one of `ids`, as (position in `ids`, place); none for an id that was not asked."""
        begins, ends = np.searchsorted(self._ids, ids, "left"), np.searchsorted(self._ids, ids, "right")
        counts = ends - begins
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(np.arange(len(ids)), counts), self._places[np.repeat(begins, counts) + within]

    def arrange(self, responses: Iterable[pa.Table], schema: pa.Schema = LLM_RESPONSE) -> Iterator[pa.Table]:
        """One row per place, in order; `responses` has at least one for each id, and any others.

        Of two answers to a request one is taken that does not depend on where they came from: a run that died between
        asking and storing has asked again.
        """
        size = max(_ROWS_AT_A_TIME, -(-self.count // _MOST_FILES))
        schema = schema.append(pa.field("place", pa.int64()))
        with ExitStack() as opened:
            files = [opened.enter_context(closing(_Rows(schema))) for _ in range(-(-self.count // size))]
            for rows in responses:
                positions, places = self.match(ids_of(rows))
                placed = rows.take(positions).append_column("place", pa.array(places))
                for number in np.unique(places // size):
                    files[number].add(placed.filter(pa.array(places // size == number)))
            for number, file in enumerate(files):
                rows = _one_per_place(pa.concat_tables([schema.empty_table(), *file.batches()]))
                missing = min(size, self.count - number * size) - rows.num_rows
                if missing:
                    raise RayrieverError(
                        f"llm: {missing:,} answers cannot be read back from the response store. Was it changed "
                        "meanwhile? Run the same command again: they are asked anew."
                    )
                yield rows


def _one_per_place(rows: pa.Table) -> pa.Table:
    rows = rows.append_column("failed", pc.is_valid(rows["error"]))  # an answer goes before a failure
    rows = rows.sort_by([(name, "ascending") for name in ("place", "failed", "text")])
    return rows.filter(pa.array(first_of_each(rows["place"].to_numpy()))).drop_columns(["place", "failed"])
