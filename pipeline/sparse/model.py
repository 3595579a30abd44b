"""Texts as weighted vocabulary entries, by a masked language model of the SPLADE kind, in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from scipy import sparse
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling

from pipeline.errors import RayrieverError
from pipeline.models import fetch, locate
from pipeline.recipe import SparseSection

# Positions pooled at a time: every copy of their logits is as wide as the vocabulary.
_POOLED = 32


class SparseModel:
    """The model of a section, with its precision and batch size.

    A folder or name of sentence-transformers is taken as it is. Any other masked language model is pooled as Formal et
    al. 2021 (SPLADE v2) do: a term weighs the maximum over the text's positions of log(1 + relu(logit)).

    Raises RayrieverError naming sparse.model when it cannot be loaded or does not weigh terms.
    """

    def __init__(self, section: SparseSection, device: torch.device | None = None) -> None:
        self.model = _open(section.model).to(device or torch.device("cpu")).to(getattr(torch, section.dtype)).eval()
        self.max_terms, self.batch_size = section.max_terms, section.batch_size
        # Known once something was encoded: a vocabulary may be padded beyond the tokenizer's.
        self.vocabulary = int(self._encode(self.model.encode_document, [""]).shape[1])

    def encode_queries(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """`[n, vocabulary]` float32, weights above 0."""
        return self._encode(self.model.encode_query, texts)

    def encode_passages(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """`[n, vocabulary]` float32, weights above 0: of each row the `max_terms` largest, equal ones by term."""
        return largest(self._encode(self.model.encode_document, texts), self.max_terms)

    def _encode(self, encode: Any, texts: Sequence[str]) -> sparse.csr_matrix:
        if not texts:
            return sparse.csr_matrix((0, self.vocabulary), dtype=np.float32)
        weights = encode(list(texts), batch_size=self.batch_size, show_progress_bar=False, save_to_cpu=True).coalesce()
        places, values = weights.indices().numpy(), weights.values().float().numpy()
        # Explicit zeros would make hits of passages that share no term.
        kept = values > 0
        return sparse.csr_matrix((values[kept], places[:, kept]), shape=tuple(weights.shape))


def largest(weights: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """Of each row the `count` largest weights, equal ones in the order of their columns."""
    rows = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    order = np.lexsort((weights.indices, -weights.data, rows))
    kept = order[np.arange(len(order)) - weights.indptr[rows] < count]
    return sparse.csr_matrix((weights.data[kept], (rows[kept], weights.indices[kept])), shape=weights.shape)


def _open(model: str) -> SparseEncoder:
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    path_or_name = fetch(locate(model)).path_or_name
    try:
        loaded = SparseEncoder(
            path_or_name, trust_remote_code=False, device="cpu", model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError) as error:
        raise RayrieverError(
            f"sparse.model {model}: cannot be loaded ({error}). "
            "Give a masked language model in safetensors: a folder, or a name while the model hub can be reached."
        ) from error
    pooling = [module for module in loaded.modules() if isinstance(module, SpladePooling)]
    if not pooling:
        raise RayrieverError(
            f"sparse.model {model}: is no masked language model, so that it weighs no terms. "
            "Give one of the SPLADE kind."
        )
    for each in pooling:
        each.chunk_size = _POOLED
    return loaded
