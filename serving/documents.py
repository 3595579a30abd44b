"""Changes of a collection that come over HTTP: written down before they are answered, then made into generations."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.collection import change
from pipeline.collection.about import About, collection_folder
from pipeline.collection.compact import compact, prune
from pipeline.errors import RayrieverError
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.records import PASSAGE
from pipeline.sharded.folder import ShardFolder
from pipeline.workspace import Workspace
from serving.errors import overloaded
from serving.generations import Ref

_LOGGER = logging.getLogger("rayriever.serve")
_JOURNAL = "changes"
# Changes whose outcome is remembered
_REMEMBERED = 10_000
# Tried so often: another writer may have been faster
_ATTEMPTS = 5
# Documents of changes that are not made yet
_MOST_WAITING = 100_000
_LONGEST_PAUSE_S = 30.0

Encode = Callable[[str, Sequence[str]], npt.NDArray[np.float32]]  # collection, texts -> vectors
Status = Literal["queued", "done", "failed"]


@dataclass(frozen=True)
class Change:
    """What a client has asked for, and what came of it."""

    id: str
    collection: str
    documents: int
    passages: Sequence[Mapping[str, Any]]  # passage_id, title, text, source; to add or replace; let go of when made
    deleted: Sequence[str]  # ids
    status: Status = "queued"
    generation: int | None = None  # in which it can be seen
    error: str | None = None

    def shown(self) -> dict[str, Any]:
        """For clients."""
        return {
            "object": "documents.change",
            "id": self.id,
            "collection": self.collection,
            "status": self.status,
            "documents": self.documents,
            "generation": self.generation,
            "error": self.error,
        }


class Journal:
    """Changes that are not made yet, as files of the workspace: a server that dies makes them when it is back."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def write(self, each: Change) -> None:
        content = {"id": each.id, "passages": list(each.passages), "deleted": list(each.deleted)}
        self._workspace.write_bytes(self._path(each), json.dumps(content).encode())

    def remove(self, each: Change) -> None:
        try:
            self._workspace.filesystem.delete_file(self._path(each))
        except FileNotFoundError:
            return

    def waiting(self, collection: str) -> list[Change]:
        """In the order in which they came."""
        found = []
        for path in self._workspace.list_files(_JOURNAL, collection):
            content = self._workspace.read_bytes(path) if path.endswith(".json") else None
            if content is not None:
                values = json.loads(content)
                found.append(_change(values["id"], collection, values["passages"], values["deleted"]))
        return found

    def _path(self, each: Change) -> str:
        return self._workspace.path(_JOURNAL, each.collection, f"{each.id}.json")


class Documents:
    """Takes changes and makes one generation of all that wait.

    Args:
        encode: called from a thread.
        made: awaited with a new generation; raises RayrieverError where it is not taken.
    """

    def __init__(self, recipe: Recipe, encode: Encode, made: Callable[[Ref], Awaitable[None]]) -> None:
        self._recipe, self._encode, self._made = recipe, encode, made
        self._journal = Journal(Workspace(recipe.workspace))
        self._known: OrderedDict[str, Change] = OrderedDict()
        self._queue: list[Change] = []
        self._last = 0
        self._wake = asyncio.Event()
        self._writing = threading.Lock()

    async def start(self) -> None:
        """Take up what was asked for before this server started."""
        for collection in self._recipe.serve.collections:
            self._queue += await asyncio.to_thread(self._journal.waiting, collection)
        for each in self._queue:
            self._remember(each)
        self._wake.set()

    async def ask(self, collection: str, passages: Sequence[Mapping[str, Any]], deleted: Sequence[str]) -> Change:
        """Write a change down. It can be seen once its status is done.

        Raises ApiError (429) while too much waits.
        """
        if sum(waiting.documents for waiting in self._queue) > _MOST_WAITING:
            raise overloaded(10, "Too many documents wait to be added. Try again later.")
        self._last = max(self._last + 1, time.time_ns())  # ids sort as they came
        each = _change(f"{self._last:020d}-{uuid.uuid4().hex[:8]}", collection, passages, deleted)
        await asyncio.to_thread(self._journal.write, each)
        self._remember(each)
        self._queue.append(each)
        self._wake.set()
        return each

    def known(self, change_id: str) -> Change | None:
        """What came of a change; None of one that was never asked for, or done long ago."""
        return self._known.get(change_id)

    async def work(self) -> None:
        """Make changes until cancelled."""
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            taken, self._queue = self._queue, []
            try:
                for collection in dict.fromkeys(each.collection for each in taken):
                    await self._make(collection, [each for each in taken if each.collection == collection])
                failures = 0
            except Exception:  # a full disk, a store or a replica that is away: accepted changes wait until it is over
                _LOGGER.exception("changes could not be made; they are tried again")
                self._queue = [*(each for each in taken if self._known[each.id].status == "queued"), *self._queue]
                failures += 1
                await asyncio.sleep(min(_LONGEST_PAUSE_S, 0.5 * 2**failures))
                self._wake.set()

    async def _make(self, collection: str, changes: Sequence[Change]) -> None:
        try:
            number = await asyncio.to_thread(self._write, collection, changes)
            await self._made(Ref(collection, number))
        except RayrieverError as error:
            _LOGGER.warning("%s: %d changes cannot be made: %s", collection, len(changes), error)
            outcome: dict[str, Any] = {"status": "failed", "error": "The change could not be made; the log says why."}
        else:
            outcome = {"status": "done", "generation": number}
        for each in changes:
            await asyncio.to_thread(self._journal.remove, each)
            self._remember(replace(each, passages=(), deleted=(), **outcome))

    def _write(self, collection: str, changes: Sequence[Change]) -> int:
        folder = collection_folder(Workspace(self._recipe.workspace), collection)
        for attempt in range(_ATTEMPTS):
            try:
                return self._write_once(folder, collection, changes)
            except RayrieverError:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
        raise AssertionError

    def _write_once(self, folder: ShardFolder, collection: str, changes: Sequence[Change]) -> int:
        with self._writing:
            identity = About.of(folder.current().about).index.encoder
            for passages, deleted in _runs(changes):
                if deleted:
                    change.delete(folder, deleted)
                else:
                    table = pa.Table.from_pylist(list(passages.values()), schema=PASSAGE)
                    change.add(folder, table, lambda texts: self._encode(collection, texts), identity)
            current = folder.current()
            if About.of(current.about).additions > self._recipe.serve.compact_after:
                current = compact(folder, self._recipe, Silent())
            prune(folder)
            return current.number

    def _remember(self, each: Change) -> None:
        self._known[each.id] = each
        self._known.move_to_end(each.id)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _change(change_id: str, collection: str, passages: Sequence[Mapping[str, Any]], deleted: Sequence[str]) -> Change:
    return Change(change_id, collection, len(passages) + len(deleted), passages, deleted)


def _runs(changes: Sequence[Change]) -> Iterator[tuple[dict[str, Mapping[str, Any]], list[str]]]:
    """Neighbouring changes of one kind as one: passages by id, the last text of each, or ids to delete."""
    passages: dict[str, Mapping[str, Any]] = {}
    deleted: list[str] = []
    for each in changes:
        if each.passages and deleted:
            yield {}, deleted
            deleted = []
        if each.deleted and passages:
            yield passages, []
            passages = {}
        passages |= {row["passage_id"]: row for row in each.passages}
        deleted += each.deleted
    if passages or deleted:
        yield passages, deleted
