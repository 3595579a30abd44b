"""CSV (RFC 4180) and TSV with a header: a row that is quoted wrongly costs itself, not those after it."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.corpus.columns import WantedColumns
from pipeline.corpus.files import CorpusFile
from pipeline.corpus.readers.lines import Line, read_lines
from pipeline.corpus.rows import BadRow, Columns, Row, row_of
from pipeline.errors import RayrieverError

_SMALLEST_FIELD_LIMIT = 131_072


@dataclass(frozen=True, slots=True)
class _Record:
    """The fields that begin on a line, or why there are none."""

    line: int
    fields: list[str]
    fault: str | None


def read_csv(files: Sequence[CorpusFile], wanted: WantedColumns, max_characters: int) -> Iterator[Row | BadRow]:
    """Yield the rows of comma-separated files; quoted fields may hold commas, doubled quotes and line breaks.

    Raises RayrieverError where a header lacks a column.
    """
    # The limit is the csv module's own, for the whole process; it only grows here.
    csv.field_size_limit(max(csv.field_size_limit(), _SMALLEST_FIELD_LIMIT, 2 * max_characters))
    for file in files:
        yield from _rows(file, _csv_records(read_lines(file)), wanted)


def read_tsv(files: Sequence[CorpusFile], wanted: WantedColumns) -> Iterator[Row | BadRow]:
    """Yield the rows of tab-separated files: one line is one row, a quote that does not close a character.

    Raises RayrieverError where a header lacks a column.
    """
    for file in files:
        yield from _rows(file, map(_tsv_record, read_lines(file)), wanted)


def _rows(file: CorpusFile, records: Iterable[_Record], wanted: WantedColumns) -> Iterator[Row | BadRow]:
    header: list[str] | None = None
    columns = Columns("", None, "")
    for record in records:
        if record.fault is None and not any(record.fields):
            continue
        if header is None:
            header = _header(record, file)
            columns = wanted.require(header, file.location)
        elif record.fault is not None:
            yield BadRow(file.name, record.line, None, record.fault)
        elif len(record.fields) != len(header):
            reason = f"{len(record.fields)} fields where the header has {len(header)}"
            yield BadRow(file.name, record.line, None, reason)
        else:
            yield _row(file.name, record, header, columns)


def _header(record: _Record, file: CorpusFile) -> list[str]:
    if record.fault is not None:
        raise RayrieverError(f"corpus {file.location}: the header line cannot be read: {record.fault}. Mend it.")
    return [name.strip() for name in record.fields]


def _row(name: str, record: _Record, header: list[str], columns: Columns) -> Row | BadRow:
    fields = record.fields
    title = fields[header.index(columns.title)] if columns.title is not None else None
    passage_id, text = fields[header.index(columns.passage_id)], fields[header.index(columns.text)]
    return row_of(name, record.line, columns, passage_id, title, text)


class _Tape:
    """Gives lines to a csv reader and takes back those that a record wrongly swallowed."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._again: deque[Line] = deque()
        self._taken: list[Line] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._taken.append(line)
        return line.text

    def record(self, fields: list[str]) -> _Record:
        """The record that the lines taken so far make up."""
        fault = next((line.fault for line in self._taken if line.fault is not None), None)
        record = _Record(self._taken[0].number, fields, fault)
        self._taken.clear()
        return record

    def reject(self, reason: str) -> _Record:
        """Give up the first line taken; the others will be read again, as records of their own."""
        first, *others = self._taken
        self._again.extendleft(reversed(others))
        self._taken.clear()
        return _Record(first.number, [], first.fault or f"broken CSV: {reason}; is a quote not closed?")


def _csv_records(lines: Iterator[Line]) -> Iterator[_Record]:
    tape = _Tape(lines)
    while True:
        # A reader that has failed keeps half a record.
        reader = csv.reader(tape, strict=True)
        try:
            for fields in reader:
                yield tape.record(fields)
            return
        except csv.Error as error:
            yield tape.reject(str(error))


def _tsv_record(line: Line) -> _Record:
    text = line.text.rstrip("\r\n")
    fields = text.split("\t")
    if '"' in text:
        try:
            fields = next(csv.reader([text], delimiter="\t", strict=True))
        except csv.Error:
            return _Record(line.number, fields, line.fault)
    return _Record(line.number, fields, line.fault)
