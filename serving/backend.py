"""Models and shards behind the interface that a search uses, in this process or elsewhere. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.collection.about import About, collection_folder
from pipeline.recipe import Recipe
from pipeline.sharded.found import Found, empty, merge
from pipeline.workspace import Workspace
from serving.batcher import Batcher
from serving.generations import Ref
from serving.models import Encoded, Encoders, Rerankers, Scored, ToEncode, ToScore
from serving.slots import Row, Share, TextSlot, ToSearch, VectorSlot

# Query vectors that a slot compares at once
_VECTORS = 256


class EncoderPart:
    """Encoders with the queue before them."""

    def __init__(self, recipe: Recipe) -> None:
        self.models = Encoders(recipe)
        budget = recipe.encoder.tokens_per_batch
        self._batcher: Batcher[ToEncode, Encoded] = Batcher(self.models.encode, lambda each: each.cost, budget)

    async def encode(self, request: ToEncode) -> Encoded:
        return await self._batcher.submit(request)

    async def open(self, refs: Sequence[Ref]) -> None:
        await asyncio.to_thread(lambda: [self.models.of(ref) for ref in refs])

    def keep(self, refs: Iterable[Ref]) -> None:
        self.models.keep(refs)


class RerankerPart:
    """Rerankers with the queue before them. A generation without one is no error until it is asked for."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.models = recipe, Rerankers(recipe)
        budget = recipe.scorer.tokens_per_batch
        self._batcher: Batcher[ToScore, Scored] = Batcher(self.models.score, lambda each: each.cost, budget)

    async def score(self, request: ToScore) -> Scored:
        return await self._batcher.submit(request)

    async def open(self, refs: Sequence[Ref]) -> None:
        with_one = [ref for ref in refs if about_of(self.recipe, ref).reranking is not None]
        await asyncio.to_thread(lambda: [self.models.of(ref) for ref in with_one])

    def keep(self, refs: Iterable[Ref]) -> None:
        self.models.keep(refs)


class VectorPart:
    """A slot of vector shards with the queue before it."""

    def __init__(self, recipe: Recipe, share: Share) -> None:
        self.slot = VectorSlot(recipe, share)
        self._batcher: Batcher[ToSearch, Found] = Batcher(self.slot.search, lambda each: each.cost, _VECTORS)

    async def search(self, request: ToSearch) -> Found:
        return await self._batcher.submit(request)

    async def open(self, refs: Sequence[Ref]) -> None:
        await asyncio.to_thread(lambda: [self.slot.generations.get(ref) for ref in refs])

    def keep(self, refs: Iterable[Ref]) -> None:
        self.slot.keep(refs)


class TextPart:
    """A slot of words and texts."""

    def __init__(self, recipe: Recipe, share: Share) -> None:
        self.slot = TextSlot(recipe, share)

    async def search(self, ref: Ref, queries: Sequence[str], k: int, only: Sequence[str] | None) -> Found:
        return await asyncio.to_thread(self.slot.search, ref, queries, k, only)

    async def lookup(self, ref: Ref, passage_ids: Sequence[str]) -> Mapping[str, Row]:
        return await asyncio.to_thread(self.slot.lookup, ref, passage_ids)

    async def matching(self, ref: Ref, filters: Mapping[str, Any]) -> list[str]:
        return await asyncio.to_thread(self.slot.matching, ref, filters)

    async def sample(self, ref: Ref, count: int) -> Sequence[Row]:
        return await asyncio.to_thread(self.slot.sample, ref, count)

    async def open(self, refs: Sequence[Ref]) -> None:
        await asyncio.to_thread(lambda: [self.slot.generations.get(ref) for ref in refs])

    def keep(self, refs: Iterable[Ref]) -> None:
        self.slot.keep(refs)


@dataclass(frozen=True)
class Parts:
    """Everything behind the gateway: objects of this process, or handles of deployments with the same methods."""

    encoder: Any
    reranker: Any
    vectors: Sequence[Any]
    texts: Sequence[Any]

    @classmethod
    def here(cls, recipe: Recipe) -> Parts:
        """In this process."""
        serve = recipe.serve
        return cls(
            EncoderPart(recipe),
            RerankerPart(recipe),
            [VectorPart(recipe, Share(slot, serve.vector_slots)) for slot in range(serve.vector_slots)],
            [TextPart(recipe, Share(slot, serve.word_slots)) for slot in range(serve.word_slots)],
        )

    def named(self) -> list[tuple[str, Any]]:
        """Every part with what it is called in figures and messages."""
        slots = [("vectors", each) for each in self.vectors] + [("texts", each) for each in self.texts]
        return [("encoder", self.encoder), ("reranker", self.reranker), *slots]


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
    """`search.Backend` over parts: what slots find is merged into the ranking that one index would give."""

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

    async def _of_all(self, name: str, parts: Sequence[Any], method: str, *arguments: Any) -> list[Any]:
        return list(await asyncio.gather(*(self._call(name, part, method, *arguments) for part in parts)))

    async def _everywhere(self, method: str, refs: Sequence[Ref]) -> None:
        await asyncio.gather(*(self._call.everywhere(part, method, list(refs)) for _, part in self.parts.named()))


def about_of(recipe: Recipe, ref: Ref) -> About:
    """What a generation says of itself. Raises RayrieverError where it is not there."""
    folder = collection_folder(Workspace(recipe.workspace), ref.collection)
    return About.of(folder.generation(ref.number).about)
