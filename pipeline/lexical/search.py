"""Search the words of a corpus with Ray actors, one per shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType

from pipeline.artifact import Artifact
from pipeline.lexical.bm25 import open_word_shard
from pipeline.lexical.stage import DIRECTORY, About
from pipeline.lexical.words import query_words
from pipeline.placement import Demand
from pipeline.rankings import Hit
from pipeline.recipe import PlacementSection, Recipe
from pipeline.sharded.actors import Answer, Searchable, ShardActors
from pipeline.sharded.folder import WORDS, Generation, ShardFolder

# Queries sent to the shards at once
_BATCH = 256

WordSearch = Callable[[Sequence[str], int], list[list[Hit]]]  # query texts, top_k -> hits of each query


def folder_of(artifact: Artifact) -> ShardFolder:
    """The shards of a finished words stage."""
    return ShardFolder.of(artifact, DIRECTORY)


@contextmanager
def open_words(recipe: Recipe, words: Artifact) -> Iterator[WordSearch]:
    """A BM25 search over a finished words stage, for many calls."""
    from pipeline.ray_session import ensure_ray

    ensure_ray(recipe.ray)
    with ShardedWords(folder_of(words)) as shards:
        yield shards.search


class ShardedWords:
    """One generation of BM25 shards; a context manager that ends its actors.

    Args:
        generation: to search; default: the newest.
        about: where the generation's own is about more than words.
        timeout_s: after which an answer goes without the shards that have none; None waits for all.
    """

    def __init__(
        self,
        folder: ShardFolder,
        generation: Generation | None = None,
        replicas: int = 1,
        timeout_s: float | None = None,
        about: About | None = None,
    ) -> None:
        self.generation = generation or folder.current()
        self.about = about or About.of(self.generation.about)
        shards = self.generation.shards[WORDS]
        opening: list[Callable[[], Searchable]] = [partial(open_word_shard, folder, each) for each in shards]
        self.shards = ShardActors("lexical", opening, Demand.of(PlacementSection()), replicas, timeout_s)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The best passages of each query: by score, equal scores by passage id, also at the cut-off.

        Only passages that share a word with the query are hits: a list may be shorter than `k`, or empty.
        Raises ValueError when `k` is below 1.
        """
        return [hits for answer in self.answers(queries, k) for hits in answer.whole().hits()]

    def answers(self, queries: Sequence[str], k: int, only: Iterable[str] | None = None) -> Iterator[Answer]:
        """The same in batches, each saying which shards did not answer in time.

        Args:
            only: ids of the passages that may be found; None: all.
        """
        if k < 1:
            raise ValueError(f"top-K must be at least 1, not {k}.")
        words = query_words(queries, self.about.lexical.stemmer)
        batches = (words[start : start + _BATCH] for start in range(0, len(words), _BATCH))
        return self.shards.search_all(batches, k, only=None if only is None else list(only))

    def __enter__(self) -> ShardedWords:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shards.__exit__(kind, error, trace)
