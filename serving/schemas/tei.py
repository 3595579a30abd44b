"""The embeddings route of Hugging Face's text-embeddings-inference, which `huggingface_hub` calls."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictStr

from serving.errors import bad_request
from serving.schemas.body import Body


class EmbedRequest(Body):
    inputs: StrictStr | Annotated[list[StrictStr], Field(min_length=1)]
    prompt_name: str | None = None
    normalize: bool | None = None
    dimensions: int | None = Field(None, ge=1)

    def texts(self) -> list[str]:
        """Raises ApiError for empty texts, and where vectors of another length than 1 are asked for."""
        texts = [self.inputs] if isinstance(self.inputs, str) else list(self.inputs)
        if not all(texts):
            raise bad_request("inputs: one is empty.", "inputs")
        if self.normalize is False:
            raise bad_request("normalize: vectors always have length 1 here.", "normalize")
        return texts
