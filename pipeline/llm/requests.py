"""Requests to a language model and their content addresses. Knows no engine and sends nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.models import locate
from pipeline.recipe import LlmSection
from pipeline.records import LLM_REQUEST

Messages = Sequence[Mapping[str, str]]  # {"role": ..., "content": ...} in the order of the conversation


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn."""

    temperature: float  # 0 takes the likeliest token
    max_tokens: int  # longest answer
    seed: int | None = None  # tells several answers to one prompt apart

    def to_json(self) -> str:
        # 0 and 0.0 are one temperature and must be one address
        return _canonical(asdict(self) | {"temperature": float(self.temperature)})

    @classmethod
    def from_json(cls, text: str) -> Sampling:
        return cls(**json.loads(text))


def model_identity(section: LlmSection) -> str:
    """What stands for the model in request ids: a hub name is the same whoever serves it.

    Raises RayrieverError when a local model cannot be found.
    """
    return section.model if section.engine in ("openai", "batch") else locate(section.model).fingerprint


def request_id(model: str, messages: Messages, sampling: Sampling) -> str:
    """Sha256, in hex, of what determines an answer; equal on every machine and Python version.

    `model` is a `model_identity`. The schema of structured answers has its place in the address already, so that
    introducing it will not change the addresses of answers that people have paid for.
    """
    asked = {
        "model": model,
        "messages": [dict(message) for message in messages],
        "sampling": json.loads(sampling.to_json()),
        "schema": None,
    }
    return hashlib.sha256(_canonical(asked).encode()).hexdigest()


def build(model: str, purpose: str, conversations: Iterable[Messages], sampling: Sampling) -> pa.Table:
    """One LLM_REQUEST row per conversation, in their order; equal conversations have equal ids."""
    messages = [[dict(message) for message in conversation] for conversation in conversations]
    columns = {
        "request_id": [request_id(model, conversation, sampling) for conversation in messages],
        "purpose": [purpose] * len(messages),
        "messages": [_canonical(conversation) for conversation in messages],
        "sampling": [sampling.to_json()] * len(messages),
    }
    return pa.table(columns, schema=LLM_REQUEST)


def distinct(requests: pa.Table) -> pa.Table:
    """The first row of every request id, in their order."""
    codes = requests["request_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    return requests if len(first) == len(codes) else requests.take(np.sort(first))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
