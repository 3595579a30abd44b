"""Encoder rerankers (cross-encoders): a linear head over query and passage read together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Encoding
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.encoder.batches import Features
from pipeline.errors import RayrieverError
from pipeline.scorer.first_token import compute_first_token_only
from pipeline.scorer.model import Contract, Pair, PairModel

PROMPT = "pair"
_NO_ACTIVATION = {"activation_fn": "torch.nn.modules.linear.Identity"}


class EncoderPairModel(PairModel):
    """`[CLS] q [SEP] d [SEP]` in, the head's logit out; of two labels, how much the second exceeds the first.

    A saved folder gives the same scores in `sentence_transformers.CrossEncoder`.
    """

    kind = "encoder"

    def __init__(self, module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, contract: Contract) -> None:
        super().__init__(module, tokenizer, contract)
        name, labels = module.config.name_or_path, module.config.num_labels
        if labels is None or labels > 2:
            raise RayrieverError(
                f"scorer.model {name}: has {labels} labels; a reranker has one, or two for "
                "irrelevant and relevant. Choose another model."
            )
        if self._backend.num_special_tokens_to_add(is_pair=True) < 2:
            raise RayrieverError(
                f"scorer.model {name}: its tokenizer sets no token between query and passage. Choose another model."
            )
        for part in self._heads():
            part.forward = _InFloat32(part.forward)

    def _frame(self) -> tuple[list[int], list[int]]:
        return [], []

    def _encode(self, pairs: Sequence[Pair]) -> list[Encoding]:
        return self._backend.encode_batch_fast(list(pairs), add_special_tokens=True)

    def _kept(self) -> int:
        # After the passage stand special tokens alone: both ways to truncate are the same here.
        special = self._backend.encode("a", "a").special_tokens_mask
        return special[::-1].index(0)

    def logits(self, features: Features) -> Tensor:
        logits: Tensor = self.module(**features).logits.float()
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]

    def prepare(self, dtype: Literal["bfloat16", "float32"], device: torch.device) -> None:
        module: nn.Module = self.module
        kept = {id(weight) for part in self._heads() for weight in part.parameters()}
        for weight in module.parameters():
            if id(weight) not in kept:
                weight.data = weight.data.to(getattr(torch, dtype))
        module.to(device).eval()
        compute_first_token_only(self.module)

    def save(self, folder: Path) -> None:
        self.module.config.sentence_transformers = dict(_NO_ACTIVATION)
        self.tokenizer.model_max_length = self.contract.max_tokens
        super().save(folder)

    def _heads(self) -> Iterator[nn.Module]:
        """Whatever the architecture has after its last layer."""
        base = self.module.base_model
        yield from (part for part in self.module.children() if part is not base)
        pooler = getattr(base, "pooler", None)
        if pooler is not None:
            yield pooler


@dataclass
class _InFloat32:
    """A module's forward pass outside of autocast, on float32 inputs."""

    forward: Callable[..., Any]

    def __call__(self, states: Tensor, *others: Any) -> Any:
        with torch.autocast(states.device.type, enabled=False):
            return self.forward(states.float(), *others)
