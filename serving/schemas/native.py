"""Rayriever's own search: several queries at once, a score of every stage, and how long each took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StrictStr

from pipeline.collection.about import Mode
from serving.errors import bad_request
from serving.expansion import Expanded
from serving.generations import Ref
from serving.schemas.body import Body
from serving.search import Answer, FoundPassage


class SearchRequest(Body):
    query: StrictStr | None = None
    queries: Annotated[list[StrictStr], Field(min_length=1)] | None = None
    top_k: int = Field(10, ge=1, le=1000)
    collection: str | None = None
    mode: Mode | None = None
    rerank: bool | None = None
    rerank_top_k: int | None = Field(None, ge=1, le=1000)
    filters: dict[str, Any] | None = None
    expand: bool = False
    include: tuple[Literal["text", "scores"], ...] = ("text", "scores")

    def texts(self) -> list[str]:
        """Raises ApiError unless either `query` or `queries` is there, with words in it."""
        if (self.query is None) == (self.queries is None):
            raise bad_request("Send either query or queries.", "query")
        texts = [self.query] if self.query is not None else list(self.queries or ())
        if not all(text.strip() for text in texts):
            raise bad_request("query: is empty.", "query")
        return texts


def answered(
    request: SearchRequest,
    queries: Sequence[str],
    expanded: Expanded | None,
    answer: Answer,
    ref: Ref,
    models: dict[str, str | None],
) -> dict[str, Any]:
    """The answer of POST /v1/search."""
    results: list[dict[str, Any]] = [
        {"query": query, "hits": [_hit(hit, request.include) for hit in hits]}
        for query, hits in zip(queries, answer.hits, strict=True)
    ]
    if expanded is not None:
        for result, text in zip(results, expanded.texts, strict=True):
            result["expansion"] = text
    return {
        "object": "search.results",
        "collection": ref.collection,
        "generation": ref.number,
        "models": models,
        "results": results,
        "timings_ms": dict(answer.milliseconds),
    }


def _hit(hit: FoundPassage, include: Sequence[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": hit.passage_id, "score": hit.score}
    if "scores" in include:
        shown["scores"] = dict(hit.scores)
    if "text" in include:
        shown |= {name: hit.row[name] for name in ("title", "text", "source")}
    return shown
