"""One optimisation step's loss: embed this worker's share, gather the others' documents, apply the loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from sentence_transformers import SentenceTransformer
from torch import Tensor

from pipeline.encoder.encode import embed
from pipeline.encoder.model import PASSAGE, QUERY
from pipeline.training.batch import Batch
from pipeline.training.losses import RowLoss
from pipeline.training.sampler import worker_slice


class BiEncoder(torch.nn.Module):
    """Queries and documents through one encoder in one forward call, so that a parallel wrapper can go around it."""

    def __init__(self, encoder: SentenceTransformer, tokens_per_batch: int, autocast: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokens_per_batch = tokens_per_batch
        self.autocast = autocast

    def forward(self, queries: list[str], documents: list[str]) -> tuple[Tensor, Tensor]:
        """Unit vectors of the queries `[b, d]` and documents `[m, d]`, float32, with gradients."""
        return self.embed(queries, QUERY), self.embed(documents, PASSAGE)

    def embed(self, texts: list[str], side: str) -> Tensor:
        prompt = self.encoder.prompts.get(side)
        return embed(self.encoder, texts, prompt, self.tokens_per_batch, self.autocast)


def freeze_unused(encoder: SentenceTransformer) -> None:
    """Stop gradients of weights that the pooling never reads (BERT's own pooler): data parallelism waits for them."""
    embed(encoder, ["a"], None, tokens_per_batch=1).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in encoder.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
        parameter.grad = None


def batch_loss(model: Any, batch: Batch, loss: RowLoss, temperature: float, rank: int, workers: int) -> Tensor:
    """This worker's part of the mean loss of the global batch; the mean over workers has the global gradient.

    Each worker embeds its own rows, but every row sees the documents of all workers as negatives, and gradients flow
    back to the worker that embedded them.
    """
    own = worker_slice(len(batch.queries), rank, workers)
    mine = [text for text, owner in zip(batch.documents, batch.owner, strict=True) if own.start <= owner < own.stop]
    queries, documents = model(batch.queries[own], mine)
    counts = [_documents_of(batch, worker_slice(len(batch.queries), r, workers)) for r in range(workers)]
    columns = gather(documents, counts) if workers > 1 else documents
    scores = queries @ columns.T / temperature
    rows = loss(scores, batch.positive[own].to(scores.device), batch.ignore[own].to(scores.device))
    # Data parallelism averages over workers: weigh each by its share of the rows.
    return rows.sum() * workers / len(batch.queries)


def gather(vectors: Tensor, counts: list[int]) -> Tensor:
    """All workers' vectors `[sum(counts), d]` in order of rank, with gradients to where they come from."""
    import torch.distributed.nn  # not loaded by torch.distributed itself

    padded = torch.nn.functional.pad(vectors, (0, 0, 0, max(counts) - len(vectors)))
    parts = torch.distributed.nn.all_gather(padded)  # type: ignore[no-untyped-call]
    assert dist.get_world_size() == len(counts)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _documents_of(batch: Batch, rows: slice) -> int:
    return sum(rows.start <= owner < rows.stop for owner in batch.owner)
