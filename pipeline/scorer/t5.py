"""T5 rerankers: the words that the decoder would write first (TWOLAR, monoT5, RankT5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Encoding
from torch import Tensor

from pipeline.encoder.batches import Features
from pipeline.scorer.model import Pair
from pipeline.scorer.words import WordPairModel

PROMPT = "monot5"
_CUE = "Relevant:"


class T5PairModel(WordPairModel):
    """`Query: q Document: d Relevant:` in, the logits of `true` and `false` at the first decoder step out.

    Baldelli et al. 2024, section 3.1, after Nogueira et al. 2020. Never in float16, in which T5 overflows.
    """

    kind = "t5"
    words = ("true", "false")

    def _frame(self) -> tuple[list[int], list[int]]:
        # With spaces around, tokens of the cue are the same alone and in the sentence; </s> is the tokenizer's own.
        return [], self._backend.encode(_CUE, add_special_tokens=True).ids

    def _encode(self, pairs: Sequence[Pair]) -> list[Encoding]:
        texts = [f"Query: {query} Document: {passage}" for query, passage in pairs]
        return self._backend.encode_batch_fast(texts, add_special_tokens=False)

    def _kept(self) -> int:
        if self.contract.truncation == "document":
            return len(self._after)
        return self._backend.num_special_tokens_to_add(is_pair=False)

    def hidden(self, features: Features) -> Tensor:
        ids, mask = features["input_ids"], features["attention_mask"]
        module: Any = self.module
        encoded = module.encoder(input_ids=ids, attention_mask=mask)
        start = torch.full((len(ids), 1), module.config.decoder_start_token_id, device=ids.device)
        decoded = module.decoder(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=mask,
            use_cache=False,
        )
        state: Tensor = decoded.last_hidden_state[:, 0].float()
        if getattr(module.config, "scale_decoder_outputs", False):  # T5 1.0: one matrix embeds inputs and outputs
            state = state * module.config.d_model**-0.5
        return state
