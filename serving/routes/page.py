"""The web page and its files: nothing comes from elsewhere, and texts of passages are only ever text."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi import FastAPI, Response

from serving.errors import ApiError

if TYPE_CHECKING:
    from serving.gateway import Gateway

_TYPES = {".css": "text/css", ".js": "text/javascript", ".html": "text/html", ".svg": "image/svg+xml"}
_FILES = {
    each.name: each.read_bytes()
    for each in files("serving.web").iterdir()
    if "." in each.name and f".{each.name.rsplit('.', 1)[1]}" in _TYPES
}


def routes(app: FastAPI, gateway: Gateway) -> None:
    """`/`, `/docs` and the files that they need."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return _file("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _file("docs.html")

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        return _file(name)


def _file(name: str) -> Response:
    if name not in _FILES:
        raise ApiError(404, "There is no such file.", "not_found")
    kind = _TYPES[f".{name.rsplit('.', 1)[1]}"]
    return Response(_FILES[name], media_type=f"{kind}; charset=utf-8")
