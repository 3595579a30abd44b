"""Texts to vectors, and the models that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request

from pipeline.encoder.side import PASSAGE
from serving.errors import unknown_model
from serving.models import ToEncode
from serving.openapi import takes
from serving.schemas import openai, tei
from serving.schemas.body import parse

if TYPE_CHECKING:
    from serving.gateway import Gateway


def routes(app: FastAPI, gateway: Gateway) -> None:
    """`/v1/embeddings`, `/embed` and `/v1/models`."""

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
