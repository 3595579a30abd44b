"""Reranking as Cohere and Jina speak it, and as Hugging Face's text-embeddings-inference does."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from typing import Any

from pydantic import StrictStr

from serving.errors import bad_request
from serving.models import Floats, Scored
from serving.schemas.body import Body

# Documents that Cohere bills as one search
_BILLED = 100


class TextDocument(Body):
    text: StrictStr


class RerankRequest(Body):
    """Either `documents` (Cohere, Jina) or `texts` (text-embeddings-inference)."""

    query: StrictStr
    documents: list[StrictStr | TextDocument] | None = None
    texts: list[StrictStr] | None = None
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    return_text: bool | None = None
    raw_scores: bool | None = None

    def passages(self) -> list[str]:
        """Raises ApiError where there are none, or nothing is asked."""
        given = self.texts if self.documents is None else self.documents
        if not given:
            raise bad_request("documents: is empty; send at least one.", "documents")
        if not self.query.strip():
            raise bad_request("query: is empty.", "query")
        return [each if isinstance(each, str) else each.text for each in given]

    @property
    def is_tei(self) -> bool:
        return self.documents is None

    def kept(self, documents: int) -> int:
        """How many of the best are answered. More than there are is all of them. Raises ApiError below 1."""
        if self.top_n is None:
            return documents
        if self.top_n < 1:
            raise bad_request(f"top_n {self.top_n}: must be at least 1.", "top_n")
        return min(self.top_n, documents)


def ranking(request: RerankRequest, passages: Sequence[str], scored: Scored, model: str) -> dict[str, Any]:
    """Cohere's and Jina's answer: best first, scores from 0 to 1.

    A result holds nothing but what the request asks for: some clients refuse other keys.
    """
    results = []
    for place in _order(scored.logits)[: request.kept(len(passages))]:
        result: dict[str, Any] = {"index": place, "relevance_score": _sigmoid(float(scored.logits[place]))}
        if request.return_documents:
            result["document"] = {"text": passages[place]}
        results.append(result)
    units = -(-len(passages) // _BILLED)
    return {
        "id": str(uuid.uuid4()),
        "model": model,
        "results": results,
        "usage": {"total_tokens": int(scored.tokens.sum())},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": units}},
    }


def tei_ranking(request: RerankRequest, passages: Sequence[str], scored: Scored) -> list[dict[str, Any]]:
    """The answer of text-embeddings-inference: a bare list."""
    results = []
    for place in _order(scored.logits):
        logit = float(scored.logits[place])
        result: dict[str, Any] = {"index": place, "score": logit if request.raw_scores else _sigmoid(logit)}
        if request.return_text:
            result["text"] = passages[place]
        results.append(result)
    return results


def _order(logits: Floats) -> list[int]:
    """Best first, equal ones as they were sent."""
    return sorted(range(len(logits)), key=lambda place: -logits[place])


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))
