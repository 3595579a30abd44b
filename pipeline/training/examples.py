"""A training example: one query with everything that attracts or repels it, and its row in a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.records import TRAINING_EXAMPLE
from pipeline.training.example_store import RowKind


@dataclass(frozen=True)
class Example:
    """Texts are what the encoder reads; a passage id goes with each text of the corpus."""

    query_id: str
    query: str
    labelled_ids: tuple[str, ...] = ()
    labelled: tuple[str, ...] = ()  # judged relevant; one is drawn per visit
    positives: tuple[str, ...] = ()  # synthetic texts that attract
    negatives: tuple[str, ...] = ()  # synthetic texts that repel
    mined_ids: tuple[str, ...] = ()
    mined: tuple[str, ...] = ()  # hard negatives from the corpus; some are drawn per visit
    candidate_ids: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()  # what orders and grades speak of
    grades: tuple[float, ...] = ()  # of each candidate, higher is better; empty where only orders are known
    orders: tuple[tuple[int, ...], ...] = ()  # places among the candidates, best first; one is drawn per visit
    weight: float = 1.0  # of this row in the mean loss of its batch


def to_table(examples: Iterable[Example]) -> pa.Table:
    """Rows of records.TRAINING_EXAMPLE."""
    return pa.Table.from_pylist([vars(example) for example in examples], schema=TRAINING_EXAMPLE)


def from_table(table: pa.Table | pa.RecordBatch) -> list[Example]:
    return [_from_row(row) for row in table.to_pylist()]


def _from_row(row: Mapping[str, Any]) -> Example:
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
    values["orders"] = tuple(map(tuple, row["orders"]))
    return Example(**values)


def _conformed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """With every column of the schema: rows of an earlier version have no weight."""
    if "weight" not in batch.schema.names:
        batch = batch.append_column("weight", pa.array([1.0] * batch.num_rows))
    return batch.select(TRAINING_EXAMPLE.names).cast(TRAINING_EXAMPLE)


example_rows = RowKind(TRAINING_EXAMPLE, _conformed, from_table)
