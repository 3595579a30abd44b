"""Compute only what a head reads of an encoder's last layer: its first token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    BertForSequenceClassification,
    PreTrainedModel,
    RobertaForSequenceClassification,
    XLMRobertaForSequenceClassification,
)

_READ_FIRST_TOKEN = (
    BertForSequenceClassification,
    RobertaForSequenceClassification,
    XLMRobertaForSequenceClassification,
)


def compute_first_token_only(module: PreTrainedModel) -> None:
    """Let the last layer give `[n, 1, d]`, for inference, where the head reads the first token alone.

    All tokens' keys and values are still needed there, but one query and one feed-forward: five sixths of the layer
    are saved, and the scores stay the same. Other architectures are left as they are.
    """
    if isinstance(module, _READ_FIRST_TOKEN):
        encoder: Any = module.base_model.encoder
        encoder.layer[-1].forward = _FirstToken(encoder.layer[-1])


@dataclass
class _FirstToken:
    """Forward pass of a BERT layer (Devlin et al. 2019) for the first position."""

    layer: Any

    def __call__(self, states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        attention, first = self.layer.attention, states[:, :1]
        own = attention.self
        mixed = scaled_dot_product_attention(
            self._heads(own.query(first)),
            self._heads(own.key(states)),
            self._heads(own.value(states)),
            attn_mask=None if attention_mask is None else attention_mask[:, :, :1],
        )
        attended = attention.output(mixed.transpose(1, 2).flatten(2), first)
        output: Tensor = self.layer.feed_forward_chunk(attended)
        return output

    def _heads(self, states: Tensor) -> Tensor:
        """`[n, L, d]` to `[n, heads, L, d / heads]`."""
        own = self.layer.attention.self
        return states.view(*states.shape[:2], own.num_attention_heads, own.attention_head_size).transpose(1, 2)
