"""Tell encoders apart: vectors of one mean nothing to another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # shards of an index know encoders by this, and need no torch
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class EncoderIdentity:
    """What decides the vectors of an encoder, whatever folder it is loaded from."""

    weights: str  # digest of every tensor by its name, as float32
    query_prompt: str
    passage_prompt: str
    max_tokens: int
    dimension: int


def identify(model: SentenceTransformer) -> EncoderIdentity:
    """The identity of a model as `load_model` returns it, before its weights are cast."""
    import torch

    from pipeline.encoder.side import PASSAGE, QUERY

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)} ".encode())
        exact = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(exact.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    dimension = model.get_embedding_dimension()
    assert dimension is not None
    return EncoderIdentity(
        weights=digest.hexdigest()[:32],
        query_prompt=model.prompts.get(QUERY) or "",
        passage_prompt=model.prompts.get(PASSAGE) or "",
        max_tokens=int(model.max_seq_length or 0),
        dimension=int(dimension),
    )
