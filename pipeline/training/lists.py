"""A reranker's training examples, a query and its passages in the teacher's order, and batches of them as tensors."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.records import RERANKING_EXAMPLE
from pipeline.training.example_store import RowKind
from pipeline.training.losses import (
    adr_mse,
    lambda_loss,
    list_mle,
    listwise_cross_entropy,
    margin_mse,
    mse,
    ranknet,
)

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ListExample:
    """n passages, best first."""

    query_id: str
    query: str
    passages: tuple[str, ...]
    scores: tuple[float, ...]  # the teacher's, of each passage
    confidence: Matrix  # [n, n] antisymmetric: how surely the passage of the row is above that of the column

    def drawn(self, size: int | None, seed: str) -> ListExample:
        """A seeded choice of `size` passages, in their order; the whole list where it has no more."""
        count = len(self.passages)
        if size is None or size >= count:
            return self
        kept = sorted(random.Random(seed).sample(range(count), size))
        passages, scores = tuple(self.passages[i] for i in kept), tuple(self.scores[i] for i in kept)
        return ListExample(self.query_id, self.query, passages, scores, self.confidence[np.ix_(kept, kept)])


def _decoded(rows: pa.RecordBatch) -> list[ListExample]:
    return [
        ListExample(
            row["query_id"],
            row["query"],
            tuple(row["passages"]),
            tuple(row["scores"]),
            antisymmetric(np.asarray(row["confidence"], dtype=np.float32), len(row["passages"])),
        )
        for row in rows.to_pylist()
    ]


def antisymmetric(upper: Matrix, size: int) -> Matrix:
    """`[n, n]` from the pairs (i, j) with i < j, row by row."""
    matrix = np.zeros((size, size), dtype=np.float32)
    matrix[np.triu_indices(size, 1)] = upper
    return matrix - matrix.T


list_rows = RowKind(RERANKING_EXAMPLE, lambda batch: batch, _decoded)


@dataclass(frozen=True)
class ListBatch:
    """B lists of up to N passages; the pairs are those of row 0, then of row 1, and so on."""

    pairs: list[tuple[str, str]]  # (query, passage)
    listed: Tensor  # [B, N] bool: where a row has a passage, its best in column 0
    confidence: Tensor  # [B, N, N]
    targets: Tensor  # [B, N] the teacher's scores, NaN where there is no passage


def collate(lists: Sequence[ListExample]) -> ListBatch:
    """Lists side by side, the shorter ones padded."""
    rows, columns = len(lists), max(len(each.passages) for each in lists)
    listed = torch.zeros(rows, columns, dtype=torch.bool)
    confidence = torch.zeros(rows, columns, columns)
    targets = torch.full((rows, columns), float("nan"))
    for row, each in enumerate(lists):
        size = len(each.passages)
        listed[row, :size] = True
        confidence[row, :size, :size] = torch.from_numpy(each.confidence)
        targets[row, :size] = torch.tensor(each.scores)
    pairs = [(each.query, passage) for each in lists for passage in each.passages]
    return ListBatch(pairs, listed, confidence, targets)


# Scores [B, N] and their batch to one loss per row [B].
ListObjective = Callable[[Tensor, ListBatch], Tensor]


def list_objective(loss: str, score_scale: float) -> ListObjective:
    """The loss that a recipe names; the teacher's scores are multiplied by `score_scale`."""
    objectives: Mapping[str, ListObjective] = {
        "ranknet": lambda scores, batch: ranknet(scores, batch.confidence),
        "lambda": lambda scores, batch: lambda_loss(scores, batch.confidence, batch.listed),
        "list_mle": lambda scores, batch: list_mle(scores, batch.listed),
        "adr_mse": lambda scores, batch: adr_mse(scores, batch.listed),
        "margin_mse": lambda scores, batch: margin_mse(scores, score_scale * batch.targets),
        "mse": lambda scores, batch: mse(scores, score_scale * batch.targets),
        "listwise_softmax": lambda scores, batch: listwise_cross_entropy(scores, score_scale * batch.targets, 1.0),
    }
    return objectives[loss]
