"""The HTTP routes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pipeline.collection.about import Mode
from pipeline.encoder.side import PASSAGE
from pipeline.recipe import Recipe
from serving import filters, page
from serving.auth import Keys, Rates
from serving.backend import FanOut
from serving.documents import Change
from serving.errors import ApiError, bad_request, shown, unknown_model
from serving.generations import Ref
from serving.limits import App, Guard
from serving.metrics import Metrics
from serving.models import ToEncode, ToScore
from serving.openapi import describe, takes
from serving.release import Released
from serving.schemas import native, openai, rerank, tei
from serving.schemas.body import parse
from serving.schemas.documents import AddRequest, DeleteRequest
from serving.search import Answer, Search, search

# Passages that a filter may let through: their ids go to every shard
_MOST_FILTERED = 200_000


class Librarian(Protocol):
    """Who changes collections."""

    async def ask(self, collection: str, passages: Sequence[Mapping[str, Any]], deleted: Sequence[str]) -> Change: ...

    async def known(self, change_id: str) -> Change | None: ...


@dataclass
class Gateway:
    """What the routes need: parts to ask, what is released, and the limits of the recipe."""

    recipe: Recipe
    backend: FanOut
    librarian: Librarian
    keys: Keys
    released: Mapping[str, Released] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    started: int = field(default_factory=lambda: int(time.time()))

    def release(self, released: Mapping[str, Released]) -> None:
        """Search these generations from the next request on."""
        self.released = dict(released)
        for each in released.values():
            self.metrics.released(each.ref)

    @property
    def name(self) -> str:
        return self.recipe.serve.name

    @property
    def default(self) -> Released:
        """Of the first collection. Raises ApiError (503) while nothing is released."""
        return self.collection(None)

    def collection(self, name: str | None, param: str = "collection") -> Released:
        """Raises ApiError for one that is not served, and (503) while nothing is released yet."""
        known = self.recipe.serve.collections
        if name is not None and name not in known:
            raise ApiError(404, f"{param} {shown(name)}: there is {', '.join(known)}.", "not_found", param)
        released = self.released.get(name or known[0])
        if released is None:
            raise ApiError(503, "Models and indexes are being opened.", "starting", headers={"Retry-After": "2"})
        return released

    def model_names(self) -> list[str]:
        names = [self.name, f"{self.name}-query", f"{self.name}-passage"]
        reranks = any(each.about.reranking for each in self.released.values())
        return [*names, f"{self.name}-reranker"] if reranks else names

    def check_texts(self, texts: Sequence[str], param: str) -> None:
        """Raise ApiError for more or longer texts than the recipe allows."""
        serve = self.recipe.serve
        if len(texts) > serve.max_texts:
            raise bad_request(f"{param}: {len(texts):,} of them; at most {serve.max_texts:,}.", param, "too_many")
        longest = max(map(len, texts), default=0)
        if longest > serve.max_text_chars:
            raise bad_request(
                f"{param}: one has {longest:,} characters; at most {serve.max_text_chars:,}.", param, "too_long"
            )


def create_app(gateway: Gateway) -> App:
    """The ASGI application, with everything that stands before the routes."""
    serve = gateway.recipe.serve
    app = FastAPI(title="Rayriever", openapi_url="/openapi.json", docs_url=None, redoc_url=None)
    _errors(app)
    for routes in (_embeddings, _rerank, _search, _documents, _operations, page.routes):
        routes(app, gateway)
    describe(app)
    return Guard(
        app,
        gateway.keys,
        Rates(serve.requests_per_minute),
        gateway.metrics,
        serve.max_waiting,
        serve.deadline_s,
        int(serve.body_mb * 1e6),
    )


def _embeddings(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/embeddings", **takes(openai.EmbeddingsRequest))
    async def embeddings(request: Request) -> dict[str, Any]:
        asked = parse(openai.EmbeddingsRequest, await request.body())
        texts, side, released = asked.texts(), asked.side(gateway.name), gateway.default
        gateway.check_texts(texts, "input")
        encoded = await gateway.backend.encode(ToEncode(released.ref, side, texts))
        vectors = openai.shortened(encoded.vectors, asked.dimensions, released.about.dimensions)
        gateway.metrics.tokens("embedded", int(encoded.tokens.sum()))
        model = asked.model or gateway.name
        return openai.embeddings(encoded, vectors, model, asked.encoding_format == "base64")

    @app.post("/embed", **takes(tei.EmbedRequest))
    async def embed(request: Request) -> list[list[float]]:
        asked = parse(tei.EmbedRequest, await request.body())
        side = PASSAGE if asked.prompt_name is None else openai.side_of(asked.prompt_name, "prompt_name")
        texts, released = asked.texts(), gateway.default
        gateway.check_texts(texts, "inputs")
        encoded = await gateway.backend.encode(ToEncode(released.ref, side, texts))
        gateway.metrics.tokens("embedded", int(encoded.tokens.sum()))
        vectors: list[list[float]] = openai.shortened(
            encoded.vectors, asked.dimensions, released.about.dimensions
        ).tolist()
        return vectors

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return openai.models(gateway.model_names(), gateway.started)

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        if name not in gateway.model_names():
            raise unknown_model(name, gateway.model_names())
        found: dict[str, Any] = openai.models([name], gateway.started)["data"][0]
        return found


def _rerank(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/rerank", **takes(rerank.RerankRequest))
    @app.post("/v1/rerank", **takes(rerank.RerankRequest))
    @app.post("/v2/rerank", **takes(rerank.RerankRequest))
    async def reranking(request: Request) -> Any:
        asked = parse(rerank.RerankRequest, await request.body())
        known, released = (gateway.name, f"{gateway.name}-reranker"), gateway.default
        if asked.model is not None and asked.model not in known:
            raise unknown_model(asked.model, list(known))
        _require_reranker(released)
        passages = asked.passages()
        asked.kept(len(passages))
        gateway.check_texts([asked.query], "query")
        gateway.check_texts(passages, "documents")
        scored = await gateway.backend.score(ToScore(released.ref, asked.query, passages))
        gateway.metrics.tokens("scored", int(scored.tokens.sum()))
        if asked.is_tei:
            return JSONResponse(rerank.tei_ranking(asked, passages, scored))
        return rerank.ranking(asked, passages, scored, asked.model or known[1])


def _require_reranker(released: Released) -> None:
    if released.about.reranking is None:
        raise ApiError(
            404,
            "This server has no reranker: the run has shipped none. Name one in serve.reranker and publish again.",
            "model_not_found",
            "model",
        )


def _search(app: FastAPI, gateway: Gateway) -> None:
    async def answer(released: Released, asked: Search) -> Answer:
        gateway.check_texts(asked.queries, "query")
        found = await search(gateway.backend, released.ref, released.about, asked)
        gateway.metrics.stages(found.milliseconds)
        gateway.metrics.tokens("queries", found.tokens)
        return found

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
        found = await answer(released, Search(queries, asked.top_k, mode, depth, only))
        return native.answered(asked, queries, found, released.ref, _models(released, depth))

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
        _require_reranker(released)
    if shipped is None or reranking is False:
        return chosen, 0
    wanted = reranking or depth is not None or chosen == shipped.first_stage
    return chosen, (depth or shipped.depth) if wanted else 0


def _models(released: Released, depth: int) -> dict[str, str | None]:
    return {
        "encoder": f"{released.about.encoder}:{released.about.index.encoder.weights[:12]}",
        "reranker": "shipped" if depth else None,
    }


def _documents(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/documents", status_code=202, **takes(AddRequest))
    async def add(request: Request) -> dict[str, Any]:
        asked = parse(AddRequest, await request.body())
        collection = gateway.collection(asked.collection).ref.collection
        gateway.check_texts([each.text for each in asked.documents], "documents")
        return (await gateway.librarian.ask(collection, asked.rows(), ())).shown()

    @app.post("/v1/documents/delete", status_code=202, **takes(DeleteRequest))
    async def delete_many(request: Request) -> dict[str, Any]:
        asked = parse(DeleteRequest, await request.body())
        collection = gateway.collection(asked.collection).ref.collection
        gateway.check_texts(asked.ids, "ids")
        return (await gateway.librarian.ask(collection, (), asked.ids)).shown()

    @app.delete("/v1/documents/{document_id:path}", status_code=202)
    async def delete_one(document_id: str, collection: str | None = None) -> dict[str, Any]:
        asked = parse(DeleteRequest, DeleteRequest.model_construct(ids=[document_id]).model_dump_json().encode())
        name = gateway.collection(collection).ref.collection
        return (await gateway.librarian.ask(name, (), asked.ids)).shown()

    @app.get("/v1/documents/changes/{change_id}")
    async def changed(change_id: str) -> dict[str, Any]:
        found = await gateway.librarian.known(change_id)
        if found is None:
            raise ApiError(404, "No such change is known since the server started.", "not_found", "change_id")
        return found.shown()


def _operations(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/health")
    @app.get("/livez")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        for name in gateway.recipe.serve.collections:
            gateway.collection(name)
        return {"status": "ready"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/info")
    async def info() -> dict[str, Any]:
        return {
            "name": gateway.name,
            "models": gateway.model_names(),
            "collections": {name: _shown(each.ref, each) for name, each in gateway.released.items()},
            "limits": gateway.recipe.serve.model_dump(
                include={"max_texts", "max_text_chars", "body_mb", "deadline_s", "requests_per_minute"}
            ),
        }


def _shown(ref: Ref, released: Released) -> dict[str, Any]:
    about = released.about
    return {
        "generation": ref.number,
        "encoder": about.encoder,
        "dimension": about.index.spec.dimension,
        "dimensions": list(about.dimensions),
        "index": about.index.spec.kind,
        "reranking": None if about.reranking is None else vars(about.reranking),
        "change": about.change,
    }


def _errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def told(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def routed(request: Request, error: HTTPException) -> JSONResponse:
        known = {404: "There is no such route.", 405: "This route has no such method."}
        status = error.status_code if error.status_code in known else 400
        code = "not_found" if status == 404 else "method_not_allowed" if status == 405 else "bad_request"
        told = ApiError(status, known.get(status, "This request cannot be read."), code)
        return JSONResponse(told.body(), status, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def validated(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][1:]))
        told = bad_request(f"{place}: {first['msg']}.", place)
        return JSONResponse(told.body(), told.status)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        told = ApiError(
            500, f"Something went wrong here. Request {request.state.request_id} is in the log.", "internal"
        )
        return JSONResponse(told.body(), told.status)
