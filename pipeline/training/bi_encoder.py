"""The encoder in training: micro-batches of queries and documents under a token budget, to unit vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from pipeline.encoder.batches import Features, token_batches
from pipeline.encoder.side import PASSAGE, QUERY

# Texts tokenised together: enough to sort by length, few enough to keep in memory.
_CHUNK = 2048


@dataclass(frozen=True)
class MicroBatch:
    """Texts of similar length: their features, and their places among all texts of the step; none for filling."""

    rows: Tensor
    features: Features
    tokens: int  # without padding

    @property
    def size(self) -> int:
        """Tokens with padding."""
        return int(self.features["attention_mask"].numel())


class BiEncoder:
    """One encoder for both sides, with its prompts, precision and micro-batch size. Plain torch."""

    def __init__(
        self,
        encoder: SentenceTransformer,
        tokens_per_batch: int,
        dtype: str,
        max_tokens: int | None = None,
        sharded: bool = False,
    ) -> None:
        self.encoder = encoder
        self.tokens_per_batch = tokens_per_batch
        self.autocast = dtype == "bfloat16"
        self.max_tokens = max_tokens
        self.sharded = sharded
        self.device = next(encoder.parameters()).device

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.encoder.parameters() if p.requires_grad]

    def micro_batches(self, queries: Sequence[str], documents: Sequence[str]) -> list[MicroBatch]:
        """Cover the queries and then the documents: numbers 0..b-1 and b..b+m-1. Texts are cut to `max_tokens`."""
        whole = self.encoder.max_seq_length
        self.encoder.max_seq_length = min(filter(None, (whole, self.max_tokens)), default=None)
        try:
            return [*self._cut(queries, QUERY, 0), *self._cut(documents, PASSAGE, len(queries))]
        finally:
            # In use, and in what is saved, the encoder reads as much as before.
            self.encoder.max_seq_length = whole

    def empty_micro_batch(self) -> MicroBatch:
        """A pass that contributes nothing."""
        piece = next(self._cut(["-"], PASSAGE, 0))
        return MicroBatch(piece.rows[:0], piece.features, 0)

    def _cut(self, texts: Sequence[str], side: str, first: int) -> Iterator[MicroBatch]:
        prompt = self.encoder.prompts.get(side) or None
        for start in range(0, len(texts), _CHUNK):
            features: Features = dict(self.encoder.preprocess(list(texts[start : start + _CHUNK]), prompt=prompt))
            for rows, batch in token_batches(features, self.tokens_per_batch):
                yield MicroBatch(rows + first + start, batch, int(batch["attention_mask"].sum()))

    def embed(self, piece: MicroBatch) -> Tensor:
        """Unit vectors `[n, d]`, float32, in the order of `piece.rows`; bfloat16 is a matter of the passes inside."""
        moved: dict[str, Any] = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in piece.features.items()
        }
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            pooled = self.encoder(moved)["sentence_embedding"]
        return torch.nn.functional.normalize(pooled.float(), dim=1)

    def in_order(self, pieces: Sequence[MicroBatch], vectors: Sequence[Tensor]) -> Tensor:
        """Put the micro-batches' vectors at the places of their texts."""
        rows = torch.cat([piece.rows for piece in pieces])
        real = [vector[: len(piece.rows)] for piece, vector in zip(pieces, vectors, strict=True)]
        return torch.cat(real)[torch.argsort(rows).to(self.device)]

    def as_pieces(self, pieces: Sequence[MicroBatch], gradient: Tensor) -> list[Tensor]:
        """The inverse of `in_order`; filling has gradient 0."""
        return [
            gradient[piece.rows.to(self.device)]
            if len(piece.rows)
            else torch.zeros(1, gradient.shape[1], device=self.device)
            for piece in pieces
        ]

    # Not inference mode: spread weights are gathered into buffers that training then could not write to.
    @torch.no_grad()
    def vectors(self, texts: Sequence[str], side: str) -> Tensor:
        """`[n, d]` on the CPU, without gradients or dropout."""
        training = self.encoder.training
        self.encoder.eval()
        pieces = list(self._cut(texts, side, 0))
        vectors = self.in_order(pieces, [self.embed(piece) for piece in pieces]).cpu()
        self.encoder.train(training)
        return vectors
