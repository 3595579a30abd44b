"""Which generation of every collection is searched: a new one is opened beside it, checked, then taken or refused."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.collection.about import About, collection_folder
from pipeline.collection.leases import Lease
from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe
from pipeline.records import full_text
from pipeline.sharded.folder import ShardFolder
from pipeline.workspace import Workspace
from serving.backend import FanOut
from serving.errors import ApiError
from serving.generations import Ref
from serving.models import ToEncode
from serving.parts import about_of
from serving.slots import Row, ToSearch

_LOGGER = logging.getLogger("rayriever.serve")
# Passages whose vectors are compared, and whose neighbours are looked for
_PROBES = 16
_NEIGHBOURS = 10
# bfloat16 on another processor, against what the index holds
_LEAST_COSINE = 0.99
_LEAST_SHARE_OF_RECALL = 0.9
# Requests that began in the generation before end there
_GRACE_S = 60.0


@dataclass(frozen=True)
class Released:
    """What gateways search now."""

    ref: Ref
    about: About

    def require_reranker(self) -> None:
        """Raise ApiError (404) where the generation holds none."""
        if self.about.reranking is None:
            raise ApiError(
                404,
                "This server has no reranker: the run has shipped none. Name one in serve.reranker and publish again.",
                "model_not_found",
                "model",
            )


Announce = Callable[[Mapping[str, Released]], Awaitable[None]]


class Releases:
    """Looks for new generations and lets gateways switch to those that pass.

    Args:
        announce: tells the gateways; awaited after every switch.
    """

    def __init__(self, recipe: Recipe, backend: FanOut, announce: Announce) -> None:
        self._recipe, self._backend, self._announce = recipe, backend, announce
        self.current: dict[str, Released] = {}
        self.refused: dict[Ref, str] = {}
        self._leases: dict[str, Lease] = {}
        self._old: list[tuple[float, Ref]] = []
        self._switching = asyncio.Lock()

    async def start(self) -> None:
        """Release the newest good generation of every collection. Raises RayrieverError where there is none."""
        for collection in self._recipe.serve.collections:
            folder = self._folder(collection)
            errors = []
            for number in reversed(await asyncio.to_thread(folder.generations)):
                try:
                    await self.release(Ref(collection, number))
                    break
                except RayrieverError as error:
                    errors.append(str(error))
            else:
                why = errors[0] if errors else "there is none. First: rayriever collection publish RECIPE."
                raise RayrieverError(f"collection {collection}: {why}")

    async def take(self, ref: Ref) -> None:
        """Release a generation that has just been made, unless a newer one is. Raises RayrieverError as `release`."""
        if self.current[ref.collection].ref.number < ref.number:
            await self.release(ref)

    async def refresh(self) -> None:
        """Release newer generations that have come; one that fails is refused once, with a warning."""
        for collection in self._recipe.serve.collections:
            numbers = await asyncio.to_thread(self._folder(collection).generations)
            newest = Ref(collection, max(numbers, default=0))
            if newest.number > self.current[collection].ref.number and newest not in self.refused:
                try:
                    await self.release(newest)
                except RayrieverError as error:
                    self.refused[newest] = str(error)
                    _LOGGER.warning("%s: generation %d is refused: %s", collection, newest.number, error)
        await self._let_go()

    async def release(self, ref: Ref) -> None:
        """Open a generation in all replicas, check it, and let the gateways switch.

        Raises RayrieverError where it does not pass; the one before goes on being searched.
        """
        async with self._switching:
            lease = await asyncio.to_thread(Lease, self._folder(ref.collection), ref.number)
            try:
                about = await asyncio.to_thread(about_of, self._recipe, ref)
                await self._backend.open([ref])
                await check(self._backend, ref, about, self._recipe.index.recall)
            except BaseException:
                await asyncio.to_thread(lease.release)
                raise
            before = self.current.get(ref.collection)
            self.current = {**self.current, ref.collection: Released(ref, about)}
            await self._announce(self.current)
            if before is not None:
                self._old.append((time.monotonic() + _GRACE_S, before.ref))
            held, self._leases[ref.collection] = self._leases.get(ref.collection), lease
            if held is not None:
                await asyncio.to_thread(held.release)
            _LOGGER.info("%s: generation %d is searched", ref.collection, ref.number)

    async def _let_go(self) -> None:
        over = [ref for until, ref in self._old if until <= time.monotonic()]
        if not over:
            return
        self._old = [(until, ref) for until, ref in self._old if ref not in over]
        await self._backend.keep([*(each.ref for each in self.current.values()), *(ref for _, ref in self._old)])

    def _folder(self, collection: str) -> ShardFolder:
        return collection_folder(Workspace(self._recipe.workspace), collection)


async def check(backend: FanOut, ref: Ref, about: About, recall: float) -> None:
    """Raise RayrieverError unless the encoder gives the vectors that the index holds, and a search finds them.

    Args:
        recall: share of the true ten best that the recipe asks for.
    """
    rows = await backend.sample(ref, _PROBES)
    if not rows:
        return  # every passage is deleted: there is nothing to find, and nothing to find wrong
    where = f"generation {ref.number}"
    texts = [full_text(str(row["title"]), str(row["text"])) for row in rows]
    vectors = (await backend.encode(ToEncode(ref, "document", texts))).vectors
    cosines = await asyncio.gather(*(_own_cosine(backend, ref, row, vectors[[n]]) for n, row in enumerate(rows)))
    if min(cosines) < _LEAST_COSINE:
        worst = rows[int(np.argmin(cosines))]["passage_id"]
        raise RayrieverError(
            f"{where}: the vector of passage {worst!r} is not what its encoder gives (cosine {min(cosines):.3f}). "
            "Publish the run again."
        )
    exact = await backend.search_vectors(ToSearch(ref, vectors, _NEIGHBOURS, exact=True))
    found = await backend.search_vectors(ToSearch(ref, vectors, _NEIGHBOURS))
    reached = _share(
        [[hit.passage_id for hit in hits] for hits in exact.hits()],
        [{hit.passage_id for hit in hits} for hits in found.hits()],
    )
    if reached < _LEAST_SHARE_OF_RECALL * (about.index.recall or recall):
        raise RayrieverError(f"{where}: a search finds {reached:.2f} of the ten nearest. Build the index again.")


async def _own_cosine(backend: FanOut, ref: Ref, row: Row, vector: object) -> float:
    passage = str(row["passage_id"])
    found = await backend.search_vectors(ToSearch(ref, np.asarray(vector), 1, only=(passage,)))
    hits = found.hits()[0]
    return hits[0].score if hits else -1.0


def _share(wanted: Sequence[Sequence[str]], found: Sequence[set[str]]) -> float:
    hits = sum(len(set(those) & these) for those, these in zip(wanted, found, strict=True))
    return hits / max(1, sum(map(len, wanted)))
