"""Parquet files, batch by batch: only the columns that a passage needs are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.columns import WantedColumns
from pipeline.corpus.files import CorpusFile
from pipeline.corpus.rows import BadRow, Columns, Row, row_of

_ROWS_PER_BATCH = 1_024


class _NotUtf8:
    """Stands for a value that is declared text and is not."""


def read_parquet(files: Sequence[CorpusFile], wanted: WantedColumns) -> Iterator[Row | BadRow]:
    """Yield the rows of all files; a row's line is its 1-based position in its file.

    Raises RayrieverError where a file lacks a column or is damaged.
    """
    for file in files:
        with file.explained_errors(), file.open_random_access() as stream, pq.ParquetFile(stream) as parquet:
            columns = wanted.require(parquet.schema_arrow.names, file.location)
            names = [
                columns.passage_id,
                columns.text,
                *([columns.title] if columns.title is not None else []),
            ]
            line = 0
            for batch in parquet.iter_batches(_ROWS_PER_BATCH, columns=list(dict.fromkeys(names))):
                yield from _rows(file.name, line, batch, columns)
                line += batch.num_rows


def _rows(name: str, before: int, batch: pa.RecordBatch, columns: Columns) -> Iterator[Row | BadRow]:
    ids, texts = _values(batch.column(columns.passage_id)), _values(batch.column(columns.text))
    titles = _values(batch.column(columns.title)) if columns.title is not None else [None] * batch.num_rows
    for line, values in enumerate(zip(ids, titles, texts, strict=True), start=before + 1):
        if any(isinstance(value, _NotUtf8) for value in values):
            yield BadRow(name, line, values[0] if isinstance(values[0], str) else None, "not UTF-8")
        else:
            yield row_of(name, line, columns, *values)


def _values(column: pa.Array) -> list[object]:
    try:
        values: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]
    return values


def _value(scalar: pa.Scalar) -> object:
    try:
        value: object = scalar.as_py()
    except UnicodeDecodeError:
        return _NotUtf8()
    return value
