"""What every reranker is to the rest: pairs to tokens, tokens to scores, a folder that gives the same scores again."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.encoder.batches import Features
from pipeline.errors import RayrieverError

Pair = tuple[str, str]  # query, passage
Kind = Literal["t5", "causal", "encoder"]
CONTRACT_FILE = "scorer.json"


@dataclass(frozen=True)
class Contract:
    """How weights read a pair. Beside the weights it decides the scores, and so it is saved with them."""

    kind: Kind
    strategy: Literal["difference", "softmax", "extra_id"]
    max_tokens: int
    truncation: Literal["document", "right"]
    prompt: str  # names the wording around query and passage; the same name always means the same wording


class PairModel(ABC):
    """A transformer that scores a query and a passage together.

    Subclasses say what stands around a pair, and where in the model its score is read.
    """

    kind: ClassVar[Kind]
    pads_left: ClassVar[bool] = False

    def __init__(self, module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, contract: Contract) -> None:
        self.module, self.tokenizer, self.contract = module, tokenizer, contract
        # A copy: a published tokenizer may carry a length limit, and ours must read special tokens as plain text.
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        self._before, self._after = self._frame()

    @abstractmethod
    def _frame(self) -> tuple[list[int], list[int]]:
        """Tokens that stand before and after what `_encode` gives; they are the same for every pair."""

    @abstractmethod
    def _encode(self, pairs: Sequence[Pair]) -> list[Encoding]:
        """Every pair whole, its passage last."""

    @abstractmethod
    def _kept(self) -> int:
        """How many tokens at the end of an input survive truncation."""

    @abstractmethod
    def logits(self, features: Features) -> Tensor:
        """The score of every pair before any sigmoid: `[n]` float32, with gradients where they are enabled.

        Autocast around the call holds for the transformer, never for the head.
        """

    @abstractmethod
    def prepare(self, dtype: Literal["bfloat16", "float32"], device: torch.device) -> None:
        """Cast and move the weights for inference; the head stays float32."""

    def tokenize(self, pairs: Sequence[Pair], max_tokens: int | None = None) -> Features:
        """Tensors `[n, L]`, padded, of n >= 1 pairs; each input has at most `max_tokens` tokens (default: trained).

        What is too long loses tokens from the end of its passage, then of its query; with truncation `right`, the
        prompt's last words are lost first. Marks of a prompt's turns and parts that a text spells are plain text, so no
        passage can end the prompt. Raises RayrieverError when the prompt alone is too long.
        """
        longest = self.contract.max_tokens if max_tokens is None else min(max_tokens, self.contract.max_tokens)
        if len(self._before) + len(self._after) >= longest:
            raise RayrieverError(
                f"scorer.max_tokens {longest}: the prompt alone has {len(self._before) + len(self._after)} tokens. "
                "Raise scorer.max_tokens."
            )
        kept = self._kept()
        encodings = self._encode(pairs)
        ids = [_cut([*self._before, *each.ids, *self._after], longest, kept) for each in encodings]
        features = {"input_ids": self._pad(ids, self.tokenizer.pad_token_id), "attention_mask": _mask(ids, self)}
        if "token_type_ids" in self.tokenizer.model_input_names:
            types = [_cut(each.type_ids, longest, kept) for each in encodings]
            features["token_type_ids"] = self._pad(types, 0)
        return features

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), tokenizer and contract; `load_scorer_model` gives the same scores."""
        self.module.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / CONTRACT_FILE).write_text(json.dumps(asdict(self.contract), indent=1) + "\n", encoding="utf-8")

    def _pad(self, rows: list[list[int]], value: int) -> Tensor:
        padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
        for place, row in zip(padded, rows, strict=True):
            place[_columns(len(row), self.pads_left)] = row
        return torch.from_numpy(padded)


def read_contract(folder: Path) -> Contract | None:
    """The contract that was saved beside the weights of `folder`; None where there is none."""
    path = folder / CONTRACT_FILE
    if not path.is_file():
        return None
    try:
        return Contract(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise RayrieverError(f"scorer.model: {path} cannot be read ({error}). Save the reranker again.") from error


def _mask(rows: list[list[int]], model: PairModel) -> Tensor:
    return model._pad([[1] * len(row) for row in rows], 0)


def _columns(length: int, left: bool) -> slice:
    return slice(-length, None) if left else slice(length)


def _cut(tokens: list[int], longest: int, kept: int) -> list[int]:
    if len(tokens) <= longest:
        return tokens
    return tokens[: longest - kept] + tokens[len(tokens) - kept :]
