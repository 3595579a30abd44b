"""Join queries, judgments, passages and synthetic documents into training examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.records import TRAINING_EXAMPLE


@dataclass(frozen=True)
class Example:
    """One train query with everything that attracts or repels it. Texts are what the encoder reads."""

    query_id: str
    query: str
    labelled_ids: tuple[str, ...]
    labelled: tuple[str, ...]
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


def join_examples(
    queries: Mapping[str, str],
    labels: Mapping[str, list[str]],
    passages: Mapping[str, str],
    representatives: Mapping[str, str],
    synthesis: Mapping[str, Mapping[str, Any]],
    loss: str,
) -> tuple[list[Example], Counter[str]]:
    """Examples in order of query id, and counts of what they hold.

    Args:
        queries: train query id -> text.
        labels: query id -> ids of passages judged relevant.
        passages: id -> text of every labelled passage.
        representatives: id -> first of its near-duplicates; a duplicate of a labelled passage must not repel.
        synthesis: query id -> row of records.SYNTHESIS.
        loss: 'infonce' leaves synthetic documents out, so that each row has its label as the only positive.
    A query without any positive is left out and counted.
    """
    examples, outcomes = [], Counter[str]()
    for query_id in sorted(queries):
        ids = tuple(sorted(labels.get(query_id, [])))
        attract, repel = _documents(None if loss == "infonce" else synthesis.get(query_id))
        example = Example(
            query_id=query_id,
            query=queries[query_id],
            labelled_ids=tuple(representatives.get(passage_id, passage_id) for passage_id in ids),
            labelled=tuple(passages[passage_id] for passage_id in ids),
            positives=attract,
            negatives=tuple(text for text in repel if text not in attract),
        )
        if not example.labelled and not example.positives:
            outcomes["examples_without_positive"] += 1
            continue
        outcomes["examples"] += 1
        outcomes["examples_with_label"] += bool(example.labelled)
        outcomes["examples_with_synthetic_positive"] += bool(example.positives)
        outcomes["examples_with_hard_negative"] += bool(example.negatives)
        examples.append(example)
    return examples, outcomes


def _documents(row: Mapping[str, Any] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts that attract and texts that repel; a relabelled p+ is among the latter (Kim & Baek 2025, section 2.2)."""
    if row is None:
        return (), ()
    attract, repel = [row["decomposition"]], [row["negative"]]
    if row["outcome"] == "kept":
        attract.append(row["positive"])
    elif row["outcome"] == "relabelled":
        repel.append(row["positive"])
    return tuple(t for t in attract if t), tuple(t for t in repel if t)


def to_table(examples: list[Example]) -> pa.Table:
    return pa.Table.from_pylist([vars(example) for example in examples], schema=TRAINING_EXAMPLE)


def from_table(table: pa.Table) -> list[Example]:
    return [
        Example(
            row["query_id"],
            row["query"],
            *(tuple(row[name]) for name in ("labelled_ids", "labelled", "positives", "negatives")),
        )
        for row in table.to_pylist()
    ]
