"""Encode queries and passages into normalised float32 vectors, in one process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

from pipeline.encoder.batches import Features, token_batches
from pipeline.encoder.model import PASSAGE, QUERY

Vectors = npt.NDArray[np.float32]

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
        return self._encode(texts, self.model.prompts.get(QUERY))

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """`[n, dimension]` float32, rows of length 1."""
        return self._encode(texts, self.model.prompts.get(PASSAGE))

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str], prompt: str | None) -> Vectors:
        vectors = torch.empty(len(texts), self.dimension)
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            vectors[start : start + len(chunk)] = embed(self.model, chunk, prompt, self.tokens_per_batch).cpu()
        return vectors.numpy()


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
    features: Features = dict(model.preprocess(texts, prompt=prompt or None))
    device = next(model.parameters()).device
    order, vectors = [], []
    for rows, batch in token_batches(features, tokens_per_batch):
        moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            pooled = model(moved)["sentence_embedding"]
        vectors.append(torch.nn.functional.normalize(pooled.float(), dim=1))
        order.append(rows)
    return torch.cat(vectors)[torch.argsort(torch.cat(order)).to(device)]
