"""`search.Backend` over parts: what slots find is merged into the ranking that one index would give."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pipeline.sharded.found import Found, empty, merge
from serving.generations import Ref
from serving.metrics import Figures
from serving.models import Encoded, Scored, ToEncode, ToScore
from serving.parts import Parts
from serving.slots import Row, ToSearch

_SOON_S = 2.0


class Caller(Protocol):
    """Calls a method of a part; the methods of handles and of objects are called differently."""

    async def __call__(self, name: str, part: Any, method: str, *arguments: Any) -> Any:
        """`name` is what the part is called in figures and messages."""
        ...

    async def everywhere(self, part: Any, method: str, *arguments: Any) -> list[Any]:
        """The same of every replica of the part."""
        ...


class Here:
    """Parts of this process."""

    async def __call__(self, name: str, part: Any, method: str, *arguments: Any) -> Any:
        found = getattr(part, method)(*arguments)
        return await found if inspect.isawaitable(found) else found

    async def everywhere(self, part: Any, method: str, *arguments: Any) -> list[Any]:
        return [await self("", part, method, *arguments)]


class FanOut:
    """Everything that a search asks, of any number of slots."""

    def __init__(self, parts: Parts, call: Caller) -> None:
        self.parts, self._call = parts, call

    async def encode(self, request: ToEncode) -> Encoded:
        encoded: Encoded = await self._call("encoder", self.parts.encoder, "encode", request)
        return encoded

    async def score(self, request: ToScore) -> Scored:
        scored: Scored = await self._call("reranker", self.parts.reranker, "score", request)
        return scored

    async def search_vectors(self, request: ToSearch) -> Found:
        found = await self._of_all("vectors", self.parts.vectors, "search", request)
        return merge(found, request.k) if found else empty(len(request.vectors))

    async def search_words(self, ref: Ref, queries: Sequence[str], k: int, only: Sequence[str] | None) -> Found:
        found = await self._of_all("texts", self.parts.texts, "search", ref, list(queries), k, only)
        return merge(found, k) if found else empty(len(queries))

    async def texts(self, ref: Ref, passage_ids: Sequence[str]) -> Mapping[str, Row]:
        found: dict[str, Row] = {}
        for each in await self._of_all("texts", self.parts.texts, "lookup", ref, list(passage_ids)):
            found |= each
        return found

    async def matching(self, ref: Ref, filters: Mapping[str, Any]) -> tuple[str, ...]:
        """Ids of the passages that a filter lets through."""
        return tuple(i for ids in await self._of_all("texts", self.parts.texts, "matching", ref, filters) for i in ids)

    async def sample(self, ref: Ref, count: int) -> list[Row]:
        """Some passages of a generation."""
        return [row for rows in await self._of_all("texts", self.parts.texts, "sample", ref, count) for row in rows]

    async def open(self, refs: Sequence[Ref]) -> None:
        """Open the generations in every replica. Raises what opening raises."""
        await self._everywhere("open", refs)

    async def keep(self, refs: Sequence[Ref]) -> None:
        """Let every replica go of all other generations."""
        await self._everywhere("keep", refs)

    async def figures(self) -> Mapping[str, Sequence[Figures]]:
        """Of every part, what each replica of it says of itself; nothing of those that do not answer soon."""

        async def of(part: Any) -> Sequence[Figures]:
            try:
                async with asyncio.timeout(_SOON_S):
                    return await self._call.everywhere(part, "figures")
            except Exception:  # whatever keeps a part from answering is what the figures are to show
                return ()

        parts = self.parts.named()
        found = await asyncio.gather(*map(of, parts.values()))
        return dict(zip(parts, found, strict=True))

    async def _of_all(self, name: str, parts: Sequence[Any], method: str, *arguments: Any) -> list[Any]:
        return list(await asyncio.gather(*(self._call(name, part, method, *arguments) for part in parts)))

    async def _everywhere(self, method: str, refs: Sequence[Ref]) -> None:
        await asyncio.gather(*(self._call.everywhere(part, method, list(refs)) for part in self.parts.named().values()))
