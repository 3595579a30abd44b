"""Encode queries and passages into normalised float32 vectors, in one process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

from pipeline.encoder.batches import Features, token_batches
from pipeline.encoder.side import PASSAGE, QUERY, Side

Vectors = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

# Texts tokenised together: enough to sort by length, few enough to keep in memory.
_CHUNK = 2048


class Encoder:
    """A model with its precision and batch size.

    Takes the model over: its weights are cast and moved. Vectors equal `SentenceTransformer.encode` of the same
    model up to the precision (bfloat16: cosine >= 0.999).
    """

    def __init__(
        self, model: SentenceTransformer, dtype: str, tokens_per_batch: int, device: torch.device | None = None
    ) -> None:
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device).to(getattr(torch, dtype)).eval()
        self.tokens_per_batch = tokens_per_batch

    @property
    def dimension(self) -> int:
        dimension = self.model.get_embedding_dimension()
        assert dimension is not None
        return int(dimension)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """`[n, dimension]` float32, rows of length 1."""
        return self.encode(texts, QUERY)[0]

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """`[n, dimension]` float32, rows of length 1."""
        return self.encode(texts, PASSAGE)[0]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], side: Side) -> tuple[Vectors, Counts]:
        """Vectors, `[n, dimension]` float32 of length 1, and how many tokens of each text were read, `[n]`."""
        prompt = self.model.prompts.get(side)
        vectors = torch.empty(len(texts), self.dimension)
        tokens = torch.empty(len(texts), dtype=torch.int64)
        for start in range(0, len(texts), _CHUNK):
            rows = slice(start, start + _CHUNK)
            features = _tokenize(self.model, list(texts[rows]), prompt)
            vectors[rows] = _embed(self.model, features, self.tokens_per_batch).cpu()
            tokens[rows] = features["attention_mask"].sum(dim=1)
        return vectors.numpy(), tokens.numpy()


def embed(
    model: SentenceTransformer,
    texts: list[str],
    prompt: str | None,
    tokens_per_batch: int,
    autocast: bool = False,
) -> torch.Tensor:
    """Unit vectors `[n, dimension]` of n >= 1 texts, float32, with gradients where they are enabled.

    `autocast` computes in bfloat16 over float32 weights, for training; inference casts the weights instead.
    """
    return _embed(model, _tokenize(model, texts, prompt), tokens_per_batch, autocast)


def _tokenize(model: SentenceTransformer, texts: list[str], prompt: str | None) -> Features:
    return dict(model.preprocess(texts, prompt=prompt or None))


def _embed(
    model: SentenceTransformer, features: Features, tokens_per_batch: int, autocast: bool = False
) -> torch.Tensor:
    device = next(model.parameters()).device
    order, vectors = [], []
    for rows, batch in token_batches(features, tokens_per_batch):
        moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            pooled = model(moved)["sentence_embedding"]
        vectors.append(torch.nn.functional.normalize(pooled.float(), dim=1))
        order.append(rows)
    return torch.cat(vectors)[torch.argsort(torch.cat(order)).to(device)]
