"""Search an index with Ray actors, one or more per shard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType

import numpy as np
import numpy.typing as npt

from pipeline.artifact import Artifact
from pipeline.encoder.identity import EncoderIdentity
from pipeline.errors import RayrieverError
from pipeline.index.build import DIRECTORY
from pipeline.index.manifest import About, check_encoder
from pipeline.index.shard import check_queries, open_shard
from pipeline.placement import Demand
from pipeline.rankings import Hit
from pipeline.recipe import IndexSection
from pipeline.sharded.actors import Answer, Searchable, ShardActors
from pipeline.sharded.folder import VECTORS, Generation, ShardFolder

Vectors = npt.NDArray[np.float32]

# Queries sent to the shards at once: enough for the matrix products of FAISS, few enough for their hits in memory.
_BATCH = 1024
MOST_HITS = 2048


def folder_of(artifact: Artifact) -> ShardFolder:
    """The shards of a finished index stage."""
    return ShardFolder.of(artifact, DIRECTORY)


class ShardedIndex:
    """One generation of an index; a context manager that ends its actors.

    Args:
        section: how many actors and threads; what the index is, it says itself.
        generation: to search; default: the newest.
        about: where the generation's own is about more than vectors.
        timeout_s: after which an answer goes without the shards that have none; None waits for all.
    """

    def __init__(
        self,
        folder: ShardFolder,
        section: IndexSection,
        generation: Generation | None = None,
        timeout_s: float | None = None,
        about: About | None = None,
    ) -> None:
        self.folder, self.generation = folder, generation or folder.current()
        self.about = about or About.of(self.generation.about)
        shards, gpus = self.generation.shards[VECTORS], section.gpus
        threads = section.threads_per_shard or max(1, (os.cpu_count() or 1) // max(1, len(shards)))
        opening: list[Callable[[], Searchable]] = [
            partial(open_shard, folder, shard, self.about, threads, gpus > 0) for shard in shards
        ]
        demand = Demand.of(section.placement, gpus=gpus)
        self.shards = ShardActors("index", opening, demand, section.replicas, timeout_s)

    def check_encoder(self, encoder: EncoderIdentity) -> None:
        """Raise RayrieverError unless the vectors are this encoder's."""
        check_encoder(self.about, encoder, self.folder.path)

    def search(self, queries: Vectors, k: int) -> list[list[Hit]]:
        """The top k of each query `[n, d]` over all shards; ties go to the smaller id.

        Raises RayrieverError when a shard does not answer in time.
        """
        return [hits for answer in self.answers(queries, k) for hits in answer.whole().hits()]

    def answers(
        self, queries: Vectors, k: int, only: Iterable[str] | None = None, exact: bool = False
    ) -> Iterator[Answer]:
        """The same in batches, each saying which shards did not answer in time.

        Args:
            only: ids of the passages that may be found; None: all.
            exact: compare every vector, whatever the kind of index.
        """
        self._check(queries, k)
        batches = (queries[start : start + _BATCH] for start in range(0, len(queries), _BATCH))
        return self.shards.search_all(batches, k, only=None if only is None else list(only), exact=exact)

    def _check(self, queries: Vectors, k: int) -> None:
        """In the caller's process: an actor that fails for a bad query looks like one that died."""
        if not 1 <= k <= MOST_HITS:
            raise RayrieverError(f"index: top-K is {k}; it goes from 1 to {MOST_HITS:,}.")
        check_queries(queries, self.about.spec.dimension)

    def __enter__(self) -> ShardedIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shards.__exit__(kind, error, trace)
