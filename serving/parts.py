"""Models and shards with the queues before them; each is an object of this process, or a deployment of its own."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.collection.about import About
from pipeline.recipe import Recipe
from pipeline.sharded.found import Found
from serving.batcher import Batcher
from serving.generations import Ref, read
from serving.metrics import Figures, PartMetrics
from serving.models import Encoded, Encoders, Rerankers, Scored, ToEncode, ToScore
from serving.slots import Row, Share, TextSlot, ToSearch, VectorSlot

# Query vectors that a slot compares at once
_VECTORS = 256
Item = TypeVar("Item")
Result = TypeVar("Result")


class _Part(ABC):
    """What all have: figures, and generations that are opened before they are asked for."""

    def __init__(self) -> None:
        self._metrics = PartMetrics()

    def figures(self) -> Figures:
        return self._metrics.figures()

    async def open(self, refs: Sequence[Ref]) -> None:
        await asyncio.to_thread(lambda: [self._open(ref) for ref in refs])

    @abstractmethod
    def keep(self, refs: Iterable[Ref]) -> None:
        """Let go of all others."""

    @abstractmethod
    def _open(self, ref: Ref) -> object: ...


class _QueuedPart(_Part, Generic[Item, Result]):
    """A part whose calls go through a queue."""

    def __init__(
        self, work: Callable[[Sequence[Item]], Sequence[Result]], cost: Callable[[Item], int], budget: int
    ) -> None:
        super().__init__()
        self._batcher = Batcher(work, cost, budget, self._metrics.batch)

    async def _submit(self, item: Item) -> Result:
        with self._metrics.asked():
            return await self._batcher.submit(item)


class EncoderPart(_QueuedPart[ToEncode, Encoded]):
    """Encoders."""

    def __init__(self, recipe: Recipe) -> None:
        self.models = Encoders(recipe)
        super().__init__(self.models.encode, lambda each: each.cost, recipe.encoder.tokens_per_batch)

    async def encode(self, request: ToEncode) -> Encoded:
        return await self._submit(request)

    def keep(self, refs: Iterable[Ref]) -> None:
        self.models.keep(refs)

    def _open(self, ref: Ref) -> object:
        return self.models.of(ref)


class RerankerPart(_QueuedPart[ToScore, Scored]):
    """Rerankers. A generation without one is no error until it is asked for."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.models = recipe, Rerankers(recipe)
        super().__init__(self.models.score, lambda each: each.cost, recipe.scorer.tokens_per_batch)

    async def score(self, request: ToScore) -> Scored:
        return await self._submit(request)

    def keep(self, refs: Iterable[Ref]) -> None:
        self.models.keep(refs)

    def _open(self, ref: Ref) -> object:
        return self.models.of(ref) if about_of(self.recipe, ref).reranking is not None else None


class VectorPart(_QueuedPart[ToSearch, Found]):
    """A slot of vector shards."""

    def __init__(self, recipe: Recipe, share: Share) -> None:
        self.slot = VectorSlot(recipe, share)
        super().__init__(self.slot.search, lambda each: each.cost, _VECTORS)

    async def search(self, request: ToSearch) -> Found:
        return await self._submit(request)

    def keep(self, refs: Iterable[Ref]) -> None:
        self.slot.keep(refs)

    def _open(self, ref: Ref) -> object:
        return self.slot.generations.get(ref)


class TextPart(_Part):
    """A slot of words and texts, which answers several calls at once."""

    def __init__(self, recipe: Recipe, share: Share) -> None:
        super().__init__()
        self.slot = TextSlot(recipe, share)

    async def search(self, ref: Ref, queries: Sequence[str], k: int, only: Sequence[str] | None) -> Found:
        return await self._in_thread(self.slot.search, ref, queries, k, only)

    async def lookup(self, ref: Ref, passage_ids: Sequence[str]) -> Mapping[str, Row]:
        return await self._in_thread(self.slot.lookup, ref, passage_ids)

    async def matching(self, ref: Ref, filters: Mapping[str, Any]) -> list[str]:
        return await self._in_thread(self.slot.matching, ref, filters)

    async def sample(self, ref: Ref, count: int) -> Sequence[Row]:
        return await self._in_thread(self.slot.sample, ref, count)

    def keep(self, refs: Iterable[Ref]) -> None:
        self.slot.keep(refs)

    def _open(self, ref: Ref) -> object:
        return self.slot.generations.get(ref)

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        with self._metrics.asked(), self._metrics.batch(1):
            return await asyncio.to_thread(work, *arguments)


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

    def named(self) -> dict[str, Any]:
        """All of them, as figures call them."""
        slots = {f"{kind}-{n}": each for kind in ("vectors", "texts") for n, each in enumerate(getattr(self, kind))}
        return {"encoder": self.encoder, "reranker": self.reranker, **slots}


def about_of(recipe: Recipe, ref: Ref) -> About:
    """What a generation says of itself. Raises RayrieverError where it is not there."""
    return About.of(read(recipe, ref)[1].about)
