"""Documents that are added, replaced and deleted while they are searched."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictStr, StringConstraints

from serving.errors import bad_request
from serving.schemas.body import Body

# Ids stand in URLs, files and pages; they are never paths
DocumentId = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")
]


class Document(Body):
    id: DocumentId
    text: StrictStr
    title: StrictStr | None = None
    source: StrictStr | None = None

    def row(self) -> dict[str, Any]:
        """A row of `records.PASSAGE`. Raises ApiError for a blank text."""
        if not self.text.strip():
            raise bad_request(f"documents: the text of {self.id!r} is empty.", "documents")
        return {
            "passage_id": self.id,
            "title": self.title or "",
            "text": self.text,
            "source": self.source or "",
            "start": None,
            "end": None,
        }


class AddRequest(Body):
    documents: Annotated[list[Document], Field(min_length=1)]
    collection: str | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Raises ApiError for an id that is there twice: which text is meant?"""
        rows = {each.id: each.row() for each in self.documents}
        if len(rows) < len(self.documents):
            raise bad_request("documents: an id is given twice.", "documents")
        return list(rows.values())


class DeleteRequest(Body):
    ids: Annotated[list[DocumentId], Field(min_length=1)]
    collection: str | None = None
