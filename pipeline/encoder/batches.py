"""Cut tokenised texts into batches of similar length under a token budget, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Features = dict[str, Any]


def token_batches(features: Features, tokens_per_batch: int) -> Iterator[tuple[Tensor, Features]]:
    """Yield `(rows, batch)`: row numbers `[b]` and their features, longest rows first, padding trimmed.

    `features` is what a tokenizer gives for n texts: tensors `[n, L]` beside scalars that are passed on.
    `b * longest <= tokens_per_batch`, except that a batch has at least one row. Longest first, so that a batch
    too big for the memory fails at once and not at the end.
    """
    mask = features["attention_mask"]
    lengths = mask.sum(dim=1)
    order = torch.argsort(lengths, descending=True, stable=True)
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        rows = order[start : start + max(1, tokens_per_batch // longest)]
        # The tokenizer may pad on either side: keep the columns that any row uses.
        columns = mask[rows].any(dim=0).nonzero().squeeze(1)
        yield rows, {name: _cut(value, mask, rows, columns) for name, value in features.items()}
        start += len(rows)


def _cut(value: Any, mask: Tensor, rows: Tensor, columns: Tensor) -> Any:
    if isinstance(value, Tensor) and value.shape == mask.shape:
        return value[rows][:, columns]
    return value
