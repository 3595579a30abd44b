"""OpenAI's embeddings, models and vector store search."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, StrictInt, StrictStr

from pipeline.encoder.side import PASSAGE, QUERY, Side
from serving.errors import bad_request, shown, unknown_model
from serving.models import Encoded, Floats
from serving.schemas.body import Body
from serving.search import FoundPassage

# How clients of other services say which side a text is on
_SIDES: Mapping[str, Side] = {
    "query": QUERY,
    "search_query": QUERY,
    "retrieval.query": QUERY,
    "document": PASSAGE,
    "passage": PASSAGE,
    "search_document": PASSAGE,
    "retrieval.passage": PASSAGE,
}
_MODEL_SIDES: Mapping[str, Side] = {"": PASSAGE, "-query": QUERY, "-passage": PASSAGE}


class EmbeddingsRequest(Body):
    input: (
        StrictStr
        | Annotated[list[StrictStr], Field(min_length=1)]
        | Annotated[list[StrictInt], Field(min_length=1)]
        | Annotated[list[list[StrictInt]], Field(min_length=1)]
    )
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    input_type: str | None = None
    prompt_name: str | None = None
    task: str | None = None

    def texts(self) -> list[str]:
        """Raises ApiError for token ids, which only OpenAI's own models could read, and for empty texts."""
        texts = [self.input] if isinstance(self.input, str) else self.input
        if not all(isinstance(text, str) for text in texts):
            raise bad_request(
                "input: token ids of another tokenizer cannot be read here; send texts. In LangChain: "
                "OpenAIEmbeddings(check_embedding_ctx_length=False).",
                "input",
            )
        empty = [place for place, text in enumerate(texts) if not text]
        if empty:
            raise bad_request(f"input.{empty[0]}: is empty.", "input")
        return [str(text) for text in texts]

    def side(self, name: str) -> Side:
        """Queries and passages are encoded differently: passages, unless the request or the model's name says so.

        Args:
            name: of the model that is served.
        Raises ApiError for another model and for a side that is neither.
        """
        model = self.model or name
        if model not in {f"{name}{suffix}" for suffix in _MODEL_SIDES}:
            raise unknown_model(model, [f"{name}{suffix}" for suffix in _MODEL_SIDES])
        for param in ("input_type", "prompt_name", "task"):
            said = getattr(self, param)
            if said is not None:
                return side_of(said, param)
        return _MODEL_SIDES[model.removeprefix(name)]


def side_of(said: str, param: str) -> Side:
    """The side that a client's word means. Raises ApiError for any other word."""
    if said not in _SIDES:
        raise bad_request(f"{param} {shown(said)}: is not among {', '.join(_SIDES)}.", param)
    return _SIDES[said]


def shortened(vectors: Floats, dimensions: int | None, trained: Sequence[int]) -> Floats:
    """The first `dimensions` of every vector, of length 1 again. Raises ApiError for a width that was not trained."""
    width = vectors.shape[1]
    if dimensions is None or dimensions == width:
        return vectors
    if dimensions not in trained:
        known = ", ".join(map(str, sorted({*trained, width})))
        raise bad_request(f"dimensions {dimensions}: this model was trained for {known}.", "dimensions")
    short = vectors[:, :dimensions]
    unit: Floats = short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return unit


def embeddings(encoded: Encoded, vectors: Floats, model: str, as_base64: bool) -> dict[str, Any]:
    """The answer of POST /v1/embeddings."""
    tokens = int(encoded.tokens.sum())
    data = [
        {"object": "embedding", "index": place, "embedding": _base64(row) if as_base64 else row.tolist()}
        for place, row in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: Floats) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def models(names: Sequence[str], created: int) -> dict[str, Any]:
    """The answer of GET /v1/models."""
    data = [{"id": name, "object": "model", "created": created, "owned_by": "rayriever"} for name in names]
    return {"object": "list", "data": data}


class RankingOptions(Body):
    ranker: str | None = None
    score_threshold: float | None = None


class VectorStoreSearchRequest(Body):
    query: StrictStr | Annotated[list[StrictStr], Field(min_length=1, max_length=32)]
    max_num_results: int | None = Field(None, ge=1, le=50)
    filters: dict[str, Any] | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = None

    def queries(self) -> list[str]:
        """Raises ApiError for blank ones."""
        queries = [self.query] if isinstance(self.query, str) else list(self.query)
        if not all(query.strip() for query in queries):
            raise bad_request("query: is empty.", "query")
        return queries


def vector_store_page(
    queries: Sequence[str], hits: Sequence[FoundPassage], most: int, threshold: float | None
) -> dict[str, Any]:
    """The answer of POST /v1/vector_stores/{id}/search: a passage is a file with one piece of content."""
    kept = [hit for hit in hits if threshold is None or hit.score >= threshold]
    return {
        "object": "vector_store.search_results.page",
        "search_query": list(queries),
        "data": [_result(hit) for hit in kept[:most]],
        "has_more": False,
        "next_page": None,
    }


def _result(hit: FoundPassage) -> dict[str, Any]:
    title, source, text = (str(hit.row[name]) for name in ("title", "source", "text"))
    return {
        "file_id": hit.passage_id,
        "filename": title or source,
        "score": hit.score,
        "attributes": {"title": title, "source": source},
        "content": [{"type": "text", "text": text}],
    }
