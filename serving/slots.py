"""The shards that one deployment holds: every n-th of each generation, searched as one. Knows nothing of Ray."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from pipeline.collection.about import About
from pipeline.collection.passages import TextShard
from pipeline.lexical.bm25 import WordShard, open_word_shard
from pipeline.lexical.words import query_words
from pipeline.recipe import Recipe
from pipeline.sharded.folder import PASSAGES, VECTORS, WORDS, Generation, ShardFiles, ShardFolder
from pipeline.sharded.found import Found, empty, merge
from serving.filters import expression
from serving.generations import Generations, Ref, Shared, read
from serving.models import Floats

if TYPE_CHECKING:
    from pipeline.index.shard import Shard

Opened = TypeVar("Opened")
Row = Mapping[str, object]


@dataclass(frozen=True)
class Share:
    """Which shards of every generation: those whose place leaves `slot` when divided by `slots`."""

    slot: int
    slots: int

    def of(self, shards: Sequence[ShardFiles]) -> Sequence[ShardFiles]:
        return shards[self.slot :: self.slots]


class _Slot(ABC, Generic[Opened]):
    """A change leaves most shards as they are: generations share them."""

    def __init__(self, recipe: Recipe, share: Share) -> None:
        self.recipe, self.share = recipe, share
        self._used: dict[Ref, set[str]] = {}
        self._shards: Shared[Any] = Shared()
        self.generations: Generations[Opened] = Generations(self._opened)

    def keep(self, refs: Iterable[Ref]) -> None:
        """Let go of the shards that only other generations have."""
        kept = set(refs)
        self.generations.keep(kept)
        self._used = {ref: keys for ref, keys in self._used.items() if ref in kept}
        self._shards.keep({key for keys in self._used.values() for key in keys})

    def _opened(self, ref: Ref) -> Opened:
        return self._open(ref, *read(self.recipe, ref))

    @abstractmethod
    def _open(self, ref: Ref, folder: ShardFolder, generation: Generation) -> Opened: ...

    def _shard(self, ref: Ref, files: ShardFiles, also: Any, make: Callable[[], Any]) -> Any:
        key = json.dumps([asdict(files), also], sort_keys=True)
        self._used.setdefault(ref, set()).add(key)
        return self._shards.get(key, make)


@dataclass(frozen=True)
class ToSearch:
    """Query vectors of one request."""

    ref: Ref
    vectors: Floats  # [n, d]
    k: int
    only: tuple[str, ...] | None = None  # ids that may be found
    exact: bool = False

    @property
    def cost(self) -> int:
        return len(self.vectors)


class VectorSlot(_Slot["list[Shard]"]):
    """Vector shards."""

    def search(self, requests: Sequence[ToSearch]) -> list[Found]:
        """One result per request; unfiltered ones of one generation are searched together, to the largest k."""
        results: dict[int, Found] = {}
        groups: dict[tuple[Ref, bool], list[int]] = {}
        for place, request in enumerate(requests):
            if request.only is None:
                groups.setdefault((request.ref, request.exact), []).append(place)
            else:
                results[place] = self._search(request.ref, request.vectors, request.k, request.exact, request.only)
        for (ref, exact), places in groups.items():
            together = np.concatenate([requests[place].vectors for place in places])
            deepest = max(requests[place].k for place in places)
            found = self._search(ref, together, deepest, exact, None)
            start = 0
            for place in places:
                rows = len(requests[place].vectors)
                results[place] = _part(found, start, rows, requests[place].k)
                start += rows
        return [results[place] for place in range(len(requests))]

    def _search(self, ref: Ref, vectors: Floats, k: int, exact: bool, only: tuple[str, ...] | None) -> Found:
        import faiss

        faiss.omp_set_num_threads(self._threads)  # holds for the thread that asks
        shards = self.generations.get(ref)
        return merge([shard.search(vectors, k, only, exact) for shard in shards], k) if shards else empty(len(vectors))

    @property
    def _threads(self) -> int:
        return self.recipe.index.threads_per_shard or max(1, (os.cpu_count() or 1) // self.share.slots)

    def _open(self, ref: Ref, folder: ShardFolder, generation: Generation) -> list[Shard]:
        from pipeline.index.shard import open_shard

        about = About.of(generation.about).index
        settings = [asdict(about.spec), asdict(about.effort)]
        gpu = self.recipe.index.gpus > 0
        return [
            self._shard(ref, files, settings, lambda files=files: open_shard(folder, files, about, self._threads, gpu))  # type: ignore[misc]
            for files in self.share.of(generation.shards[VECTORS])
        ]


@dataclass(frozen=True)
class _Texts:
    words: list[WordShard]
    stemmer: str
    texts: list[TextShard]


class TextSlot(_Slot[_Texts]):
    """Shards of words and of the passages themselves."""

    def search(self, ref: Ref, queries: Sequence[str], k: int, only: Sequence[str] | None = None) -> Found:
        """The best passages by BM25."""
        opened = self.generations.get(ref)
        words = query_words(queries, opened.stemmer)
        found = [shard.search(words, k, only) for shard in opened.words]
        return merge(found, k) if found else empty(len(queries))

    def lookup(self, ref: Ref, passage_ids: Sequence[str]) -> dict[str, Row]:
        """Rows of `records.PASSAGE` of those ids that are here."""
        found: dict[str, Row] = {}
        for shard in self.generations.get(ref).texts:
            found |= shard.lookup(passage_ids)
        return found

    def matching(self, ref: Ref, filters: Mapping[str, Any]) -> list[str]:
        """Ids of the passages that a filter lets through."""
        condition = expression(filters)
        return [i for shard in self.generations.get(ref).texts for i in shard.matching(condition)]

    def sample(self, ref: Ref, count: int) -> Sequence[Row]:
        """Some passages, spread over the shards."""
        shards = self.generations.get(ref).texts
        each = -(-count // max(1, len(shards)))
        return [row for shard in shards for row in shard.sample(each)][:count]

    def _open(self, ref: Ref, folder: ShardFolder, generation: Generation) -> _Texts:
        about = About.of(generation.about).words
        words = [
            self._shard(ref, files, "words", lambda files=files: open_word_shard(folder, files))  # type: ignore[misc]
            for files in self.share.of(generation.shards[WORDS])
        ]
        texts = [
            self._shard(ref, files, "texts", lambda files=files: TextShard(folder, files))  # type: ignore[misc]
            for files in self.share.of(generation.shards[PASSAGES])
        ]
        return _Texts(words, about.lexical.stemmer, texts)


def _part(found: Found, start: int, rows: int, k: int) -> Found:
    """The first k of some rows."""
    width = found.scores.shape[1]
    k = min(k, width)
    places = np.arange(start * width, (start + rows) * width).reshape(rows, width)[:, :k]
    return Found(found.scores[start : start + rows, :k], found.ids.take(pa.array(places.ravel())))
