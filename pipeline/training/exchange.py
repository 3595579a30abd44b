"""Training tables from and to other trainers: FlagEmbedding's and sentence-transformers' files, row by row."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifact import Artifact
from pipeline.errors import RayrieverError
from pipeline.export import new_file, write_row
from pipeline.queries.given import Reject
from pipeline.recorded import numbered_rows
from pipeline.training.examples import Example, from_table
from pipeline.training.layouts import LAYOUTS, Layout, UnusableRow, given_id, layout_of, short_sha
from pipeline.workspace import Workspace

_Row = tuple[int, Mapping[str, Any] | None]  # line or row from 1, and its columns; None where it is no object

_ROWS_PER_BATCH = 256
_BUFFER_BYTES = 1 << 20
_ROWS_WITHOUT_LAYOUT = 100  # so many rows of nothing known mean that the file is something else


@dataclass(frozen=True)
class Written:
    """What an export holds, and what its layout had no place for."""

    rows: int
    negatives_left_out: int  # counted once per row
    queries_without_positive: int


def read_examples(path: str, reject: Reject) -> Iterator[Example]:
    """Examples of a .jsonl, .jsonl.gz or .parquet file, in its order; never more than a few hundred rows in memory.

    The layout is known by its columns, see `pipeline.training.layouts`. Positives become labelled passages, negatives
    mined ones; with scores all of them become candidates with grades. Ids that are missing are made from the texts, so
    that a query which comes again has the same id.

    Args: `reject` is told source, line (or row), query id and reason of every row that cannot be used.
    Raises RayrieverError where the file cannot be read or its layout is unknown.
    """
    root = Workspace(path).root
    if root.endswith((".jsonl", ".jsonl.gz")):
        layout, rows = _with_layout(path, numbered_rows(path))
    elif root.endswith(".parquet"):
        layout, rows = _parquet(path)
    else:
        raise RayrieverError(f"{path}: not a training table. Known are files named .jsonl, .jsonl.gz and .parquet.")
    source = root.rsplit("/", 1)[-1]
    for number, row in rows:
        if row is None:
            reject(source, number, None, "not a JSON object")
            continue
        try:
            example = layout.read(row)
        except UnusableRow as fault:
            reject(source, number, given_id(row), str(fault))
            continue
        yield example


def _with_layout(path: str, rows: Iterator[_Row]) -> tuple[Layout, Iterator[_Row]]:
    """The layout of the first row that has one, and all rows. A broken row at the top must not decide."""
    seen: list[_Row] = []
    columns: dict[str, None] = {}
    for number, row in rows:
        seen.append((number, row))
        columns.update(dict.fromkeys(row or ()))
        layout = layout_of(row or ())
        if layout is not None:
            return layout, chain(seen, rows)
        if len(seen) == _ROWS_WITHOUT_LAYOUT:
            break
    raise _unknown_layout(path, columns)


def _parquet(path: str) -> tuple[Layout, Iterator[_Row]]:
    place = Workspace(path)
    with _explained_read_errors(path):
        columns = pq.read_schema(place.root, filesystem=place.filesystem).names
    layout = layout_of(columns)
    if layout is None:
        raise _unknown_layout(path, columns)
    return layout, _parquet_rows(path, layout.wanted(columns))


def _parquet_rows(path: str, columns: list[str]) -> Iterator[_Row]:
    place, number = Workspace(path), 0
    with _explained_read_errors(path), place.filesystem.open_input_file(place.root) as stream:
        # Without these two a whole row group is fetched at once, and it may be the whole file.
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        for batch in file.iter_batches(_ROWS_PER_BATCH, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row


@contextmanager
def _explained_read_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise RayrieverError(f"{path}: cannot be read ({error}). Check the path and that the file is whole.") from error


def _unknown_layout(path: str, columns: Iterable[str]) -> RayrieverError:
    known = "\n".join(f"  {layout.name}: {layout.columns}" for layout in LAYOUTS)
    found = ", ".join(columns) or "none"
    return RayrieverError(
        f"{path}: its layout is unknown. Columns found: {found}. Known layouts:\n{known}\nRename the columns."
    )


def stored_examples(artifact: Artifact) -> Iterator[Example]:
    """Rows of a finished training stage's table `examples`, part by part."""
    for part in artifact.parts("examples"):
        with artifact.workspace.filesystem.open_input_file(part) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(_ROWS_PER_BATCH):
                yield from from_table(batch)


def write_flagembedding(examples: Iterable[Example], path: str) -> Written:
    """One JSON line per query: id, query, pos, neg, pos_id, neg_id and, where every text has a grade, scores.

    Synthetic texts stand among the others, those that attract in `pos`, those that repel in `neg`. A query without
    positive is left out.
    """
    rows = without = 0
    with new_file(path) as stream:
        for example in examples:
            positives = _attracting(example)
            if not positives:
                without += 1
                continue
            negatives = _repelling(example)
            row: dict[str, Any] = {"id": example.query_id, "query": example.query}
            row |= {"pos": list(positives), "neg": list(negatives)}
            row |= {"pos_id": list(positives.values()), "neg_id": list(negatives.values())}
            grades = dict(zip(example.candidates, example.grades, strict=False))
            if grades.keys() >= positives.keys() | negatives.keys():
                row |= {"pos_scores": [grades[t] for t in positives], "neg_scores": [grades[t] for t in negatives]}
            write_row(stream, row)
            rows += 1
    return Written(rows, 0, without)


def write_sentence_transformers(examples: Iterable[Example], path: str) -> Written:
    """One JSON line per query and labelled passage: anchor, positive, negative_1 ... negative_n.

    Every row must have the same columns and no other, so n is the number of negatives of the query with the fewest;
    synthetic ones come first. A query without labelled passages has a row per synthetic positive instead.
    """
    rows = negatives = without = 0
    fewest: int | None = None
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        for example in examples:
            positives, repelling = tuple(dict.fromkeys(example.labelled or example.positives)), _repelling(example)
            without += not positives
            for positive in positives:
                write_row(spool, [example.query, positive, *repelling])
                rows, negatives = rows + 1, negatives + len(repelling)
                fewest = len(repelling) if fewest is None else min(fewest, len(repelling))
        columns = ["anchor", "positive", *(f"negative_{n}" for n in range(1, (fewest or 0) + 1))]
        spool.seek(0)
        with new_file(path) as stream:
            for line in spool:
                write_row(stream, dict(zip(columns, json.loads(line), strict=False)))
    return Written(rows, negatives - rows * (fewest or 0), without)


WRITERS: dict[str, Callable[[Iterable[Example], str], Written]] = {
    "flagembedding": write_flagembedding,
    "sentence-transformers": write_sentence_transformers,
}


def _attracting(example: Example) -> dict[str, str]:
    """Text -> id, labelled ones first."""
    labelled = dict(zip(example.labelled, example.labelled_ids, strict=True))
    return labelled | {text: short_sha(text) for text in example.positives if text not in labelled}


def _repelling(example: Example) -> dict[str, str]:
    """Text -> id, synthetic ones first. Other trainers do not look whether a negative is a positive, too."""
    synthetic = {text: short_sha(text) for text in example.negatives}
    every = synthetic | dict(zip(example.mined, example.mined_ids, strict=True))
    attracting = {*example.labelled, *example.positives}
    return {text: passage_id for text, passage_id in every.items() if text not in attracting}
