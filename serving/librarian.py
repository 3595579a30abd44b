"""The only one that changes collections and decides which generation is searched. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pipeline.recipe import Recipe
from serving.backend import FanOut
from serving.documents import Change, Documents
from serving.models import ToEncode
from serving.release import Released, Releases

_LOGGER = logging.getLogger("rayriever.serve")
_POLL_S = 1.0


class Librarian:
    """Begins its work when it is first asked what is released.

    Args:
        announce: tells the gateways what to search from now on.
    """

    def __init__(
        self, recipe: Recipe, backend: FanOut, announce: Callable[[Mapping[str, Released]], Awaitable[None]]
    ) -> None:
        self._backend = backend
        self.releases = Releases(recipe, backend, announce)
        self.documents = Documents(recipe, self._encode, self.releases.take)
        self._tasks: list[asyncio.Task[None]] = []
        self._started: asyncio.Task[None] | None = None

    async def released(self) -> Mapping[str, Released]:
        """What is searched now. Raises RayrieverError where nothing can be."""
        if self._started is None or (self._started.done() and self._started.exception() is not None):
            self._started = asyncio.create_task(self._start())
        await asyncio.shield(self._started)
        return self.releases.current

    async def ask(self, collection: str, passages: Sequence[Mapping[str, Any]], deleted: Sequence[str]) -> Change:
        return await self.documents.ask(collection, passages, deleted)

    async def known(self, change_id: str) -> Change | None:
        return self.documents.known(change_id)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _start(self) -> None:
        await self.releases.start()
        await self.documents.start()
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.create_task(self.documents.work()), asyncio.create_task(self._watch())]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                await self.releases.refresh()
            except Exception:  # a store that is away, a replica that starts: the next round may find them
                _LOGGER.exception("looking for new generations failed")

    def _encode(self, collection: str, texts: Sequence[str]) -> Any:
        ref = self.releases.current[collection].ref
        encoding = self._backend.encode(ToEncode(ref, "document", list(texts)))
        return asyncio.run_coroutine_threadsafe(encoding, self._loop).result().vectors
