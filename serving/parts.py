"""Models and shards with the queues before them; each is an object of this process, or a deployment of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.collection.about import About, collection_folder
from pipeline.recipe import Recipe
from pipeline.sharded.found import Found
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


def about_of(recipe: Recipe, ref: Ref) -> About:
    """What a generation says of itself. Raises RayrieverError where it is not there."""
    folder = collection_folder(Workspace(recipe.workspace), ref.collection)
    return About.of(folder.generation(ref.number).about)
