"""For those who run the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response

from serving.release import Released

if TYPE_CHECKING:
    from serving.gateway import Gateway


def routes(app: FastAPI, gateway: Gateway) -> None:
    """Probes, figures, and what is served."""

    @app.get("/health")
    @app.get("/livez")
    async def alive() -> dict[str, Any]:
        return {"status": "ok", "key_required": gateway.keys.required}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        for name in gateway.recipe.serve.collections:
            gateway.collection(name)
        return {"status": "ready"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await gateway.figures(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/info")
    async def info() -> dict[str, Any]:
        return {
            "name": gateway.name,
            "models": gateway.model_names(),
            "collections": {name: _shown(each) for name, each in gateway.released.items()},
            "limits": gateway.recipe.serve.model_dump(
                include={"max_texts", "max_text_chars", "body_mb", "deadline_s", "requests_per_minute"}
            ),
        }


def _shown(released: Released) -> dict[str, Any]:
    about = released.about
    return {
        "generation": released.ref.number,
        "encoder": about.encoder,
        "dimension": about.index.spec.dimension,
        "dimensions": list(about.dimensions),
        "index": about.index.spec.kind,
        "reranking": None if about.reranking is None else vars(about.reranking),
        "change": about.change,
    }
