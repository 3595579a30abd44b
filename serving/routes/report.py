"""How what is searched was evaluated."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import FastAPI, Response

from pipeline.collection.about import RUN_REPORT
from serving.errors import ApiError
from serving.generations import Ref, read

if TYPE_CHECKING:
    from serving.gateway import Gateway


def routes(app: FastAPI, gateway: Gateway) -> None:
    """`/v1/collections/{name}/report`."""

    def content(ref: Ref) -> bytes:
        folder, generation = read(gateway.recipe, ref)
        file = generation.extra.get(RUN_REPORT)
        if file is None:
            raise ApiError(404, f"Collection {ref.collection} was published of a run without evaluation.", "not_found")
        return folder.fetch([file])[0].read_bytes()

    @app.get("/v1/collections/{name}/report")
    async def report(name: str) -> Response:
        """The report of the run that was published, as `rayriever report --json` prints it."""
        found = await asyncio.to_thread(content, gateway.collection(name, "name").ref)
        return Response(found, media_type="application/json")
