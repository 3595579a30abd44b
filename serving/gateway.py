"""The HTTP application: what its routes share, its errors, and what stands before it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pipeline.recipe import Recipe
from serving.auth import Keys, Rates
from serving.backend import FanOut
from serving.documents import Change
from serving.errors import ApiError, bad_request, internal, shown
from serving.expansion import Expander
from serving.limits import App, Guard
from serving.metrics import Figures, Metrics, merged
from serving.openapi import describe
from serving.release import Released
from serving.routes import documents, embeddings, operations, page, report, rerank, search


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
    expander: Expander = field(init=False)
    gateways: Callable[[], Awaitable[Sequence[Figures]]] | None = None  # figures of all, where there are several

    def __post_init__(self) -> None:
        self.expander = Expander(self.recipe)

    async def figures(self) -> bytes:
        """Of all processes, for Prometheus."""
        gateways = [self.metrics.figures()] if self.gateways is None else await self.gateways()
        return merged({"gateway": gateways, **await self.backend.figures()})

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
    for subject in (embeddings, rerank, search, documents, operations, report, page):
        subject.routes(app, gateway)
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
        told = internal(request.state.request_id)
        return JSONResponse(told.body(), told.status)
