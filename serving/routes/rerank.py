"""Passages of the client put in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from serving.errors import unknown_model
from serving.models import ToScore
from serving.openapi import takes
from serving.schemas import rerank
from serving.schemas.body import parse

if TYPE_CHECKING:
    from serving.gateway import Gateway


def routes(app: FastAPI, gateway: Gateway) -> None:
    """`/rerank`, `/v1/rerank` and `/v2/rerank`: one handler for all dialects."""

    @app.post("/rerank", **takes(rerank.RerankRequest))
    @app.post("/v1/rerank", **takes(rerank.RerankRequest))
    @app.post("/v2/rerank", **takes(rerank.RerankRequest))
    async def reranking(request: Request) -> Any:
        asked = parse(rerank.RerankRequest, await request.body())
        known, released = (gateway.name, f"{gateway.name}-reranker"), gateway.default
        if asked.model is not None and asked.model not in known:
            raise unknown_model(asked.model, list(known))
        released.require_reranker()
        passages = asked.passages()
        asked.kept(len(passages))
        gateway.check_texts([asked.query], "query")
        gateway.check_texts(passages, "documents")
        scored = await gateway.backend.score(ToScore(released.ref, asked.query, passages))
        gateway.metrics.tokens("scored", int(scored.tokens.sum()))
        if asked.is_tei:
            return JSONResponse(rerank.tei_ranking(asked, passages, scored))
        return rerank.ranking(asked, passages, scored, asked.model or known[1])
