"""A score from the logits of two words that a language model could write next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.encoder.batches import Features
from pipeline.errors import RayrieverError
from pipeline.scorer.model import Contract, PairModel

# TWOLAR and RankT5 both read the logit of this one, which T5 never writes for text.
_EXTRA_ID = "<extra_id_10>"


class WordHead:
    """Logits of a few words only, in float32: in bfloat16 they lie 0.06 to 0.125 apart, and passages tie.

    Reads the rows of the model's own output layer, so that training moves them.
    """

    def __init__(self, output: nn.Linear, ids: Sequence[int]) -> None:
        self._output, self._ids = output, list(ids)
        self._kept: tuple[Tensor, Tensor | None] | None = None

    def keep(self, device: torch.device) -> None:
        """Keep the rows as they are now, whatever the model's weights are cast to afterwards."""
        weight, bias = self._rows()
        self._kept = weight.detach().to(device), None if bias is None else bias.detach().to(device)

    def __call__(self, hidden: Tensor) -> Tensor:
        """`[n, words]` float32 of hidden states `[n, d]`, without the logits of the other words."""
        weight, bias = self._kept or self._rows()
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), weight, bias)

    def _rows(self) -> tuple[Tensor, Tensor | None]:
        bias = self._output.bias
        return self._output.weight[self._ids].float(), None if bias is None else bias[self._ids].float()


class WordPairModel(PairModel):
    """A language model that is asked whether the passage is relevant, and read before it answers."""

    words: ClassVar[tuple[str, str]]  # the answer that says relevant, and the other one

    def __init__(self, module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, contract: Contract) -> None:
        super().__init__(module, tokenizer, contract)
        words = (_EXTRA_ID,) if contract.strategy == "extra_id" else self.words
        # The tokenizer as it came, in which <extra_id_10> is a token and not text.
        self.ids = [single_token(tokenizer.backend_tokenizer, word, str(module.config.name_or_path)) for word in words]
        untyped: Any = module
        self.head = WordHead(untyped.get_output_embeddings(), self.ids)

    @abstractmethod
    def hidden(self, features: Features) -> Tensor:
        """What the output layer reads where the answer would begin: `[n, d]`."""

    def logits(self, features: Features) -> Tensor:
        return score_of(self.head(self.hidden(features)), self.contract.strategy)

    def prepare(self, dtype: Literal["bfloat16", "float32"], device: torch.device) -> None:
        self.head.keep(device)
        module: nn.Module = self.module
        module.to(device=device, dtype=getattr(torch, dtype)).eval()


def score_of(logits: Tensor, strategy: str) -> Tensor:
    """`[n]` of the logits `[n, words]` of the word that says relevant and, except for extra_id, of the other one.

    difference: TWOLAR (Baldelli et al. 2024, section 3.1); its sigmoid is monoT5's probability. softmax: the
    logarithm of that probability (Nogueira et al. 2020). extra_id: the logit of a single word (RankT5).
    """
    if strategy == "extra_id":
        return logits[:, 0]
    difference = logits[:, 0] - logits[:, 1]
    # logsigmoid, unlike log_softmax, tells passages apart where the probability is 1 in float32.
    return F.logsigmoid(difference) if strategy == "softmax" else difference


def single_token(tokenizer: Tokenizer, word: str, model: str) -> int:
    """The token of a word. Raises RayrieverError when the tokenizer writes it otherwise than as one known token."""
    encoded = tokenizer.encode(word, add_special_tokens=False)
    unknown = getattr(tokenizer.model, "unk_token", None)
    if len(encoded.ids) == 1 and encoded.tokens[0] not in (unknown, "<unk>"):
        return encoded.ids[0]
    raise RayrieverError(
        f"scorer.model {model}: its tokenizer writes {word!r} as {encoded.tokens}, not as one token that it knows, "
        "so it has no logit for it. Choose another model, or an encoder."
    )
