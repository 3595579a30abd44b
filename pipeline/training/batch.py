"""A training batch: its documents as columns, and which of them attract, repel or say nothing to each query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.examples import Example
from pipeline.training.sampler import draw


@dataclass(frozen=True)
class Batch:
    """`positive` and `ignore` are `[B, M]` masks of B queries and M documents; document j is of row `owner[j]`."""

    queries: list[str]
    documents: list[str]
    owner: list[int]
    positive: Tensor
    ignore: Tensor


@dataclass(frozen=True)
class _Column:
    owner: int
    text: str
    passage_id: str | None
    attracts: bool


def assemble(examples: Sequence[Example], rows: Sequence[int], seed: int, epoch: int) -> Batch:
    """The batch of the given rows of `examples`, documents grouped by row in order.

    One labelled positive is drawn per visit. Another row's document is ignored where it is labelled relevant for the
    query or equals one of its positives in text; a text repeated among the negatives counts once.
    """
    columns = [column for place, row in enumerate(rows) for column in _columns(examples[row], place, seed, epoch, row)]
    positive = torch.zeros(len(rows), len(columns), dtype=torch.bool)
    ignore = torch.zeros_like(positive)
    for place, row in enumerate(rows):
        labelled = set(examples[row].labelled_ids)
        good = {*examples[row].labelled, *examples[row].positives}
        seen: set[str] = set()
        for number, column in enumerate(columns):
            if column.owner == place and column.attracts:
                positive[place, number] = True
            elif column.text in good or column.passage_id in labelled or column.text in seen:
                ignore[place, number] = True
            else:
                seen.add(column.text)
    return Batch(
        queries=[examples[row].query for row in rows],
        documents=[column.text for column in columns],
        owner=[column.owner for column in columns],
        positive=positive,
        ignore=ignore,
    )


def _columns(example: Example, place: int, seed: int, epoch: int, row: int) -> list[_Column]:
    columns = []
    if example.labelled:
        drawn = draw(len(example.labelled), seed, epoch, row)
        columns.append(_Column(place, example.labelled[drawn], example.labelled_ids[drawn], True))
    columns += [_Column(place, text, None, True) for text in example.positives if text not in example.labelled]
    columns += [_Column(place, text, None, False) for text in example.negatives]
    return columns
