"""Changes of a collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request

from serving.errors import ApiError
from serving.openapi import takes
from serving.schemas.body import parse
from serving.schemas.documents import AddRequest, DeleteRequest, DocumentId

if TYPE_CHECKING:
    from serving.gateway import Gateway


def routes(app: FastAPI, gateway: Gateway) -> None:
    """`/v1/documents` and what is below it."""

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
    async def delete_one(document_id: DocumentId, collection: str | None = None) -> dict[str, Any]:
        name = gateway.collection(collection).ref.collection
        return (await gateway.librarian.ask(name, (), [document_id])).shown()

    @app.get("/v1/documents/changes/{change_id}")
    async def changed(change_id: str) -> dict[str, Any]:
        found = await gateway.librarian.known(change_id)
        if found is None:
            raise ApiError(404, "No such change is known since the server started.", "not_found", "change_id")
        return found.shown()
