"""The OpenAPI document: bodies are parsed by us, so FastAPI is told what they are."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serving.schemas.body import Body

_REFS = "#/components/schemas/{model}"
_BODIES: dict[str, dict[str, Any]] = {}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_STATUSES = {
    "400": "The request cannot be read; `param` names the field.",
    "401": "No key, or one that is not accepted.",
    "404": "No such model, collection or change.",
    "413": "The body is too large.",
    "429": "Too many requests; `Retry-After` says when to come again.",
    "503": "Not ready yet.",
    "504": "No answer within the deadline.",
}


def takes(kind: type[Body]) -> dict[str, Any]:
    """Arguments of a route that reads a body of this kind."""
    schema = kind.model_json_schema(ref_template=_REFS)
    _BODIES.update(schema.pop("$defs", {}))
    _BODIES[kind.__name__] = schema
    content = {"application/json": {"schema": {"$ref": _REFS.format(model=kind.__name__)}}}
    return {"openapi_extra": {"requestBody": {"required": True, "content": content}}}


def describe(app: FastAPI) -> None:
    """Let the application answer with the whole document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version="1", routes=app.routes)
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(_BODIES, Error=_ERROR)
            made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            made["security"] = [{"key": []}]
            for path in made["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
                    operation["responses"].update(_errors())
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _errors() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REFS.format(model="Error")}}}
    return {status: {"description": text, "content": content} for status, text in _STATUSES.items()}
