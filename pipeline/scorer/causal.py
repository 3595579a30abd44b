"""Causal rerankers: whether the model would answer yes or no (Qwen3-Reranker, and chat models of any kind)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from tokenizers import Encoding
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.encoder.batches import Features
from pipeline.errors import RayrieverError
from pipeline.scorer.model import Contract, Pair
from pipeline.scorer.words import WordPairModel

PROMPT = "qwen3-reranker"
_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_PAIR = "<the pair>"  # stands for query and passage while the chat template is filled in
_PLAIN = (
    f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n<|im_start|>user\n{_PAIR}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


class CausalPairModel(WordPairModel):
    """The question of Qwen3-Reranker (Zhang et al. 2025) in, the logits of `yes` and `no` at the last position out."""

    kind = "causal"
    words = ("yes", "no")
    pads_left = True

    def __init__(self, module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, contract: Contract) -> None:
        super().__init__(module, tokenizer, contract)
        self._check_head()

    def _frame(self) -> tuple[list[int], list[int]]:
        before, after = prompt(self.tokenizer).split(_PAIR)
        own = self.tokenizer.backend_tokenizer  # the prompt's special tokens are meant
        return own.encode(before, add_special_tokens=False).ids, own.encode(after, add_special_tokens=False).ids

    def _encode(self, pairs: Sequence[Pair]) -> list[Encoding]:
        texts = [f"<Instruct>: {_TASK}\n<Query>: {query}\n<Document>: {passage}" for query, passage in pairs]
        return self._backend.encode_batch_fast(texts, add_special_tokens=False)

    def _kept(self) -> int:
        return len(self._after) if self.contract.truncation == "document" else 0

    def hidden(self, features: Features) -> Tensor:
        mask = features["attention_mask"]
        base: Any = self.module.base_model
        states: Tensor = base(
            input_ids=features["input_ids"],
            attention_mask=mask,
            # Padding stands on the left and must not push a prompt to later positions.
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        return states[:, -1]

    @torch.no_grad()
    def _check_head(self) -> None:
        """Some architectures scale or cap their logits after the output layer; ours would be others."""
        module: Any = self.module
        module.eval()
        features = self.tokenize([("query", "passage")])
        whole = module(**features, use_cache=False).logits[:, -1, self.ids].float()
        if not torch.allclose(whole, self.head(self.hidden(features)), rtol=1e-3, atol=1e-3):
            raise RayrieverError(
                f"scorer.model {module.config.name_or_path}: {type(module).__name__} changes its logits "
                "after the output layer, which is not supported. Choose another causal model."
            )


def prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """The whole prompt around `_PAIR`: by the tokenizer's chat template, or as Qwen3-Reranker publishes it.

    Where a template knows no system message, its text opens the user's; thinking is off where there is a choice.
    """
    system, user = {"role": "system", "content": _SYSTEM}, {"role": "user", "content": _PAIR}
    joined = {"role": "user", "content": f"{_SYSTEM}\n\n{_PAIR}"}
    for messages in ([system, user], [joined]) if tokenizer.chat_template else ():
        try:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except TemplateError:
            continue
        if isinstance(text, str) and text.count(_PAIR) == 1 and _SYSTEM in text:
            return text
    return _PLAIN
