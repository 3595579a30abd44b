"""What a replica holds open of every generation that is searched or about to be. Knows nothing of Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from pipeline.collection.about import collection_folder
from pipeline.recipe import Recipe
from pipeline.sharded.folder import Generation, ShardFolder
from pipeline.workspace import Workspace

T = TypeVar("T")


class Ref(NamedTuple):
    """A generation of a collection. Every request inside the server names the one that it is about."""

    collection: str
    number: int


def read(recipe: Recipe, ref: Ref) -> tuple[ShardFolder, Generation]:
    """Where a generation lies, and what it consists of. Raises RayrieverError where it is not there."""
    folder = collection_folder(Workspace(recipe.workspace), ref.collection)
    return folder, folder.generation(ref.number)


class Generations(Generic[T]):
    """Opens a generation when it is first asked for, once for all threads, and keeps it until it is let go.

    A replica that has just been started, or that a switch has not reached, so answers for any generation.
    """

    def __init__(self, open_generation: Callable[[Ref], T]) -> None:
        self._open = open_generation
        self._opened: dict[Ref, T] = {}
        self._lock = threading.Lock()
        self._opening: dict[Ref, threading.Lock] = {}

    def get(self, ref: Ref) -> T:
        """Raises what opening raises; the next call tries again."""
        with self._lock:
            if ref in self._opened:
                return self._opened[ref]
            opening = self._opening.setdefault(ref, threading.Lock())
        with opening:
            with self._lock:
                if ref in self._opened:
                    return self._opened[ref]
            opened = self._open(ref)
            with self._lock:
                self._opened[ref] = opened
                self._opening.pop(ref, None)
            return opened

    def opened(self, ref: Ref) -> bool:
        """Whether `get` answers at once."""
        return ref in self._opened

    def keep(self, refs: Iterable[Ref]) -> None:
        """Let go of all others. Requests that are under way keep what they hold."""
        kept = set(refs)
        with self._lock:
            for ref in [ref for ref in self._opened if ref not in kept]:
                del self._opened[ref]


class Shared(Generic[T]):
    """Values by key that several generations share, such as the shards that a change has left alone."""

    def __init__(self) -> None:
        self._values: dict[str, T] = {}
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], T]) -> T:
        with self._lock:
            if key in self._values:
                return self._values[key]
        value = make()
        with self._lock:
            return self._values.setdefault(key, value)

    def keep(self, keys: Iterable[str]) -> None:
        kept = set(keys)
        with self._lock:
            for key in [key for key in self._values if key not in kept]:
                del self._values[key]
