"""Search a collection while it changes: one generation at a time, switched whole."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from pipeline.collection.about import About
from pipeline.collection.leases import Lease
from pipeline.collection.passages import PassageTexts
from pipeline.errors import RayrieverError
from pipeline.index.search import ShardedIndex
from pipeline.lexical.search import ShardedWords
from pipeline.recipe import IndexSection
from pipeline.sharded.folder import Generation, ShardFolder

_LOGGER = logging.getLogger(__name__)


class Snapshot:
    """One generation, every shard of it open: vectors, words and texts that belong together."""

    def __init__(self, folder: ShardFolder, number: int, section: IndexSection, timeout_s: float | None) -> None:
        self._users, self._retired, self._lock = 0, False, threading.Lock()
        self._lease = Lease(folder, number)
        try:
            self.generation: Generation = folder.generation(number)
            self.about = About.of(self.generation.about)
            self.passages = PassageTexts(folder, self.generation)
            self.index = ShardedIndex(folder, section, self.generation, timeout_s, self.about.index)
            self.words = ShardedWords(folder, self.generation, section.replicas, timeout_s, self.about.words)
        except BaseException:
            self._lease.release()
            raise
        try:
            self.index.shards.wait_until_ready()
            self.words.shards.wait_until_ready()
        except BaseException:
            self._close()
            raise

    def enter(self) -> bool:
        """Whether it may be used: not once it is closed."""
        with self._lock:
            if self._retired and not self._users:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._retired and not self._users
        if last:
            self._close()

    def retire(self) -> None:
        """Close it once nobody uses it any more."""
        with self._lock:
            self._retired = True
            unused = not self._users
        if unused:
            self._close()

    def _close(self) -> None:
        self.index.__exit__(None, None, None)
        self.words.__exit__(None, None, None)
        self._lease.release()


class CollectionReader:
    """The newest generation of a collection that can be opened; a context manager. May be used by many threads.

    Args:
        timeout_s: after which a search goes without the shards that have not answered; None waits for all.
    """

    def __init__(self, folder: ShardFolder, section: IndexSection, timeout_s: float | None = None) -> None:
        self.folder, self._section, self._timeout_s = folder, section, timeout_s
        self._current = self._newest_good()

    def _newest_good(self) -> Snapshot:
        newest_error: RayrieverError | None = None
        for number in reversed(self.folder.generations()):
            try:
                return self._open(number)
            except RayrieverError as error:
                _LOGGER.warning("%s: generation %d cannot be opened: %s", self.folder.path, number, error)
                newest_error = newest_error or error
        raise newest_error or RayrieverError(f"{self.folder.path}: holds no collection; publish one first.")

    def _open(self, number: int) -> Snapshot:
        return Snapshot(self.folder, number, self._section, self._timeout_s)

    @property
    def generation(self) -> Generation:
        """What is searched now."""
        return self._current.generation

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The generation that is searched now. It stays open until the block ends, whatever comes meanwhile."""
        snapshot = self._current
        while not snapshot.enter():  # replaced and closed in between
            snapshot = self._current
        try:
            yield snapshot
        finally:
            snapshot.leave()

    def refresh(self) -> bool:
        """Switch to the newest generation once all its shards are open; whether there was a newer one.

        Searches that are under way end in the generation in which they began. Raises RayrieverError when the newest
        cannot be opened: the one at hand stays and goes on being searched.
        """
        newest = max(self.folder.generations(), default=0)
        if newest <= self.generation.number:
            return False
        opened = self._open(newest)
        before, self._current = self._current, opened
        before.retire()
        return True

    def __enter__(self) -> CollectionReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._current.retire()
