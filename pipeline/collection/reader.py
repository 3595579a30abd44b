"""Search a collection while it changes: one generation at a time, switched whole."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from pipeline.collection.about import About
from pipeline.collection.leases import LEASE_S, Lease
from pipeline.collection.passages import lookup
from pipeline.errors import RayrieverError
from pipeline.index.search import ShardedIndex
from pipeline.lexical.search import ShardedWords
from pipeline.recipe import IndexSection
from pipeline.sharded.folder import Generation, ShardFolder


class _Opened:
    """A generation with its shards in memory, and the lease on it."""

    def __init__(self, folder: ShardFolder, number: int, section: IndexSection, timeout_s: float | None) -> None:
        self.lease = Lease(folder, number, LEASE_S)
        try:
            self.generation: Generation = folder.generation(number)
            about = About.of(self.generation.about)
            self.index = ShardedIndex(folder, section, self.generation, timeout_s, about.index)
            self.words = ShardedWords(folder, self.generation, section.replicas, timeout_s, about.words)
        except BaseException:
            self.lease.release()
            raise
        try:
            self.index.shards.wait_until_ready()
            self.words.shards.wait_until_ready()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.index.__exit__(None, None, None)
        self.words.__exit__(None, None, None)
        self.lease.release()


class CollectionReader:
    """The newest generation of a collection; a context manager.

    Args:
        timeout_s: after which a search goes without the shards that have not answered; None waits for all.
    """

    def __init__(self, folder: ShardFolder, section: IndexSection, timeout_s: float | None = None) -> None:
        self.folder, self._section, self._timeout_s = folder, section, timeout_s
        numbers = folder.generations()
        if not numbers:
            raise RayrieverError(f"{folder.path}: holds no collection; publish one first.")
        self._opened = self._open(numbers[-1])

    def _open(self, number: int) -> _Opened:
        return _Opened(self.folder, number, self._section, self._timeout_s)

    @property
    def generation(self) -> Generation:
        """What is searched now."""
        return self._opened.generation

    @property
    def index(self) -> ShardedIndex:
        """Its vectors."""
        return self._opened.index

    @property
    def words(self) -> ShardedWords:
        """Its words."""
        return self._opened.words

    def passages(self, ids: Sequence[str]) -> dict[str, dict[str, object]]:
        """Rows of `records.PASSAGE` by id."""
        return lookup(self.folder, self.generation, ids)

    def refresh(self) -> bool:
        """Switch to the newest generation once all its shards are open; whether there was a newer one.

        Raises RayrieverError when it cannot be opened: the generation at hand stays and goes on being searched.
        """
        newest = max(self.folder.generations(), default=0)
        if newest <= self.generation.number:
            return False
        opened = self._open(newest)
        before, self._opened = self._opened, opened
        before.close()
        return True

    def __enter__(self) -> CollectionReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()
