"""Searches of a collection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request

from pipeline.collection.about import Mode
from pipeline.recipe import Recipe
from serving import filters
from serving.errors import bad_request
from serving.expansion import Expanded
from serving.openapi import takes
from serving.release import Released
from serving.schemas import native, openai
from serving.schemas.body import parse
from serving.search import Answer, Search, search

if TYPE_CHECKING:
    from serving.gateway import Gateway

# Passages that a filter may let through: their ids go to every shard
_MOST_FILTERED = 200_000


def routes(app: FastAPI, gateway: Gateway) -> None:
    """`/v1/search` and `/v1/vector_stores/{id}/search`."""

    async def answer(released: Released, asked: Search) -> Answer:
        gateway.check_texts(asked.queries, "query")
        found = await search(gateway.backend, released.ref, released.about, asked)
        gateway.metrics.stages(found.milliseconds)
        gateway.metrics.tokens("queries", found.tokens)
        return found

    async def expand(queries: Sequence[str], mode: Mode) -> Expanded:
        gateway.check_texts(queries, "query")
        if mode == "bm25":
            raise bad_request("expand: adds to what is encoded; mode bm25 encodes nothing.", "expand")
        return await gateway.expander.expand(queries)

    async def filtered(released: Released, given: dict[str, Any] | None) -> tuple[str, ...] | None:
        if given is None:
            return None
        filters.check(given)
        ids = await gateway.backend.matching(released.ref, given)
        if len(ids) > _MOST_FILTERED:
            raise bad_request(f"filters: let {len(ids):,} passages through; at most {_MOST_FILTERED:,}.", "filters")
        return ids

    @app.post("/v1/search", **takes(native.SearchRequest))
    async def native_search(request: Request) -> dict[str, Any]:
        asked = parse(native.SearchRequest, await request.body())
        queries, released = asked.texts(), gateway.collection(asked.collection)
        mode, depth = plan(gateway.recipe, released, asked.mode, asked.rerank, asked.rerank_top_k)
        only = await filtered(released, asked.filters)
        expanded = await expand(queries, mode) if asked.expand else None
        found = await answer(released, Search(queries, asked.top_k, mode, depth, only, expanded))
        return native.answered(asked, queries, expanded, found, released.ref, _models(released, depth))

    @app.post("/v1/vector_stores/{store}/search", **takes(openai.VectorStoreSearchRequest))
    async def vector_store_search(store: str, request: Request) -> dict[str, Any]:
        asked = parse(openai.VectorStoreSearchRequest, await request.body())
        queries, released = asked.queries(), gateway.collection(store, "vector_store_id")
        options = asked.ranking_options
        mode, depth = plan(
            gateway.recipe, released, None, False if options and options.ranker == "none" else None, None
        )
        most = asked.max_num_results or 10
        only = await filtered(released, asked.filters)
        found = await answer(released, Search([" ".join(queries)], most, mode, depth, only))
        threshold = options.score_threshold if options else None
        return openai.vector_store_page(queries, found.hits[0], most, threshold)


def plan(
    recipe: Recipe, released: Released, mode: Mode | None, reranking: bool | None, depth: int | None
) -> tuple[Mode, int]:
    """First stage and depth of reranking (0: none) of a request that leaves them open, in full or in part.

    A reranker works by default behind the first stage that it was found to help. Raises ApiError where one is asked
    for and there is none.
    """
    shipped = released.about.reranking
    usual: Mode = recipe.serve.mode if recipe.serve.mode != "auto" else shipped.first_stage if shipped else "hybrid"
    chosen = mode or usual
    if reranking or depth is not None:
        released.require_reranker()
    if shipped is None or reranking is False:
        return chosen, 0
    wanted = reranking or depth is not None or chosen == shipped.first_stage
    return chosen, (depth or shipped.depth) if wanted else 0


def _models(released: Released, depth: int) -> dict[str, str | None]:
    return {
        "encoder": f"{released.about.encoder}:{released.about.index.encoder.weights[:12]}",
        "reranker": "shipped" if depth else None,
    }
