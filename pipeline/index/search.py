"""Search an index with one Ray actor per shard."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from pipeline.errors import RayrieverError
from pipeline.index.build import DIRECTORY, shard_files
from pipeline.index.merge import merge
from pipeline.index.shard import Shard
from pipeline.rankings import Hit
from pipeline.ray_session import explained_ray_errors
from pipeline.workspace import Artifact, Workspace

# Queries sent to the shards at once: bounds the actors' memory for scores.
_BATCH = 256


class ShardActor:
    """Holds one shard in memory and answers for it."""

    def __init__(self, workspace: str, stage: str, key: str, number: int) -> None:
        artifact = Workspace(workspace).artifact(stage, key)
        if artifact is None:
            raise RayrieverError(f"{stage}: no finished index under key {key}.")
        index_file, ids_file = (artifact.file(DIRECTORY, name) for name in shard_files(number))
        self.shard = Shard.load(index_file, ids_file)

    def search(self, queries: npt.NDArray[np.float32], k: int) -> list[list[Hit]]:
        return self.shard.search(queries, k)


class ShardedIndex:
    """All shards of a finished index stage; a context manager that ends its actors."""

    def __init__(self, artifact: Artifact) -> None:
        shards = sum(name.endswith(".faiss") for name in artifact.manifest.directories[DIRECTORY])
        manifest = artifact.manifest
        actor = ray.remote(num_cpus=0, max_restarts=2, max_task_retries=2)(ShardActor)
        self._actors: list[Any] = [
            actor.remote(artifact.workspace.uri, manifest.stage, manifest.key, number) for number in range(shards)
        ]

    def search(self, queries: npt.NDArray[np.float32], k: int) -> list[list[Hit]]:
        """The exact top k of each query `[n, d]` over all shards; ties go to the smaller id."""
        found: list[list[Hit]] = []
        for start in range(0, len(queries), _BATCH):
            batch = queries[start : start + _BATCH]
            with explained_ray_errors("index: a shard", "One killed for memory needs more index.shards."):
                answers = ray.get([actor.search.remote(batch, k) for actor in self._actors])
            found.extend(merge(of_query, k) for of_query in zip(*answers, strict=True))
        return found

    def __enter__(self) -> ShardedIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self._actors:
            ray.kill(actor)
