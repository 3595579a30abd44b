"""The server that one would write in ten minutes: FastAPI, SentenceTransformer.encode in a thread, one request each."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class EmbeddingsRequest(BaseModel):
    input: str | list[str]
    model: str = ""


def main() -> None:
    folder, port = sys.argv[1], int(sys.argv[2])
    app, model = FastAPI(), SentenceTransformer(folder, device="cpu")

    @app.post("/v1/embeddings")
    def embeddings(request: EmbeddingsRequest) -> dict[str, Any]:
        texts = [request.input] if isinstance(request.input, str) else request.input
        vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False).tolist()
        data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        return {"object": "list", "data": data, "model": request.model}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    main()
