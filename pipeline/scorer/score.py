"""Score pairs in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.encoder.batches import Features, token_batches
from pipeline.scorer.model import Pair, PairModel

Scores = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

# Pairs tokenised together: enough to sort by length, few enough to keep in memory.
_CHUNK = 4096
# On a CPU larger batches leave the cache, and gain nothing there: a core is busy with far fewer tokens.
_CPU_TOKENS = 1024


class Scorer:
    """A reranker with its precision and batch size.

    Takes the model over: its weights are cast and moved. The same pair gets the same score whatever is scored
    beside it, up to the rounding of the precision. On a CPU a batch has at most 1,024 tokens.
    """

    def __init__(
        self,
        model: PairModel,
        dtype: Literal["bfloat16", "float32"],
        tokens_per_batch: int,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        on_cpu = self.device.type == "cpu"
        self.model, self.tokens_per_batch = model, min(tokens_per_batch, _CPU_TOKENS) if on_cpu else tokens_per_batch
        model.prepare(dtype, self.device)

    def score(self, query: str, passages: Sequence[str]) -> Scores:
        """`[n]` float32, higher is better, in the order of the passages."""
        return self.score_pairs([(query, passage) for passage in passages])

    def score_pairs(self, pairs: Sequence[Pair]) -> Scores:
        """`[n]` float32 of (query, passage), in the order given."""
        return self.score_and_count(pairs)[0]

    @torch.inference_mode()
    def score_and_count(self, pairs: Sequence[Pair]) -> tuple[Scores, Counts]:
        """The same, and how many tokens of each pair were read, `[n]`, those of the prompt among them."""
        scores, tokens = torch.empty(len(pairs)), torch.empty(len(pairs), dtype=torch.int64)
        for start in range(0, len(pairs), _CHUNK):
            rows = slice(start, start + _CHUNK)
            features = self.model.tokenize(pairs[rows])
            scores[rows] = score_features(self.model, features, self.tokens_per_batch).cpu()
            tokens[rows] = features["attention_mask"].sum(dim=1)
        return scores.numpy(), tokens.numpy()


def score_features(model: PairModel, features: Features, tokens_per_batch: int) -> Tensor:
    """`[n]` float32 in the order of the rows of `features`, batch by batch, with gradients where they are enabled."""
    device = next(model.module.parameters()).device
    order, scores = [], []
    for rows, batch in token_batches(features, tokens_per_batch):
        scores.append(model.logits({name: value.to(device) for name, value in batch.items()}))
        order.append(rows)
    return torch.cat(scores)[torch.argsort(torch.cat(order)).to(device)]
