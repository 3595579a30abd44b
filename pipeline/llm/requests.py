"""Requests to a language model and their content addresses. Knows no engine and sends nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from pipeline.models import locate, locate_adapter
from pipeline.recipe import LlmSection
from pipeline.records import LLM_REQUEST

_ROWS_AT_A_TIME = 1000

Messages = Sequence[Mapping[str, str]]  # {"role": ..., "content": ...} in the order of the conversation


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn."""

    temperature: float  # 0 takes the likeliest token
    max_tokens: int  # longest answer
    seed: int | None = None  # tells several answers to one prompt apart
    choices: tuple[str, ...] = ()  # the answer is one of these, if there are any
    # The answer is all choices instead, "C > A > B": by the likelihood with which it would begin with each
    ranks_choices: bool = False

    def to_json(self) -> str:
        choices = {"choices": list(self.choices)} if self.choices else {}
        return _canonical(self._drawn() | choices | self._ranked())

    @classmethod
    def from_json(cls, text: str) -> Sampling:
        values = json.loads(text)
        return cls(**values | {"choices": tuple(values.get("choices", ()))})

    def address(self) -> dict[str, Any]:
        """What of it determines an answer, as a part of request ids."""
        schema = {"choices": list(self.choices), **self._ranked()} if self.choices else None
        return {"sampling": self._drawn(), "schema": schema}

    def _ranked(self) -> dict[str, Any]:
        return {"ranks_choices": True} if self.ranks_choices else {}

    def _drawn(self) -> dict[str, Any]:
        values = asdict(self)
        del values["choices"], values["ranks_choices"]
        # 0 and 0.0 are one temperature and must be one address
        return values | {"temperature": float(self.temperature)}


def in_order(choices: Sequence[str], likelihoods: Sequence[float]) -> str:
    """The answer to a request with `ranks_choices`: likeliest first, equally likely ones in the order given."""
    best_first = sorted(range(len(choices)), key=lambda place: -likelihoods[place])
    return " > ".join(choices[place] for place in best_first)


def model_identity(section: LlmSection) -> str:
    """What stands for the model in request ids: a hub name is the same whoever serves it.

    Raises RayrieverError when a local model or adapter cannot be found.
    """
    parts = [section.model if section.engine in ("openai", "batch") else locate(section.model).fingerprint]
    if section.lora is not None:
        parts.append(f"lora:{locate_adapter(section.lora).fingerprint}")
    if section.chat_template:
        parts.append(f"template:{_canonical(section.chat_template)}")
    return " ".join(parts)


def request_id(model: str, messages: Messages, sampling: Sampling) -> str:
    """Sha256, in hex, of what determines an answer; equal on every machine and Python version.

    `model` is a `model_identity`.
    """
    asked = {"model": model, "messages": [dict(message) for message in messages], **sampling.address()}
    return hashlib.sha256(_canonical(asked).encode()).hexdigest()


@dataclass(frozen=True)
class Request:
    """One question to the model."""

    purpose: str  # what the answer is for: question, decomposition, positive, ...
    messages: Messages
    sampling: Sampling

    def row(self, model: str) -> dict[str, str]:
        """LLM_REQUEST. Equal questions to a `model_identity` have equal ids."""
        return {
            "request_id": request_id(model, self.messages, self.sampling),
            "purpose": self.purpose,
            "messages": _canonical([dict(message) for message in self.messages]),
            "sampling": self.sampling.to_json(),
        }


def tables(model: str, requests: Iterable[Request]) -> Iterator[pa.Table]:
    """LLM_REQUEST rows in the order given, made while they are read: no more than a thousand are held."""
    rows = (request.row(model) for request in requests)
    while group := list(islice(rows, _ROWS_AT_A_TIME)):
        yield pa.Table.from_pylist(group, schema=LLM_REQUEST)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
