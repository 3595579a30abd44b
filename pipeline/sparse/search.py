"""Search the weighted terms of a corpus with Ray actors, one per shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from pipeline.artifact import Artifact
from pipeline.placement import Demand
from pipeline.rankings import Hit
from pipeline.recipe import Recipe
from pipeline.sharded.actors import Searchable, ShardActors
from pipeline.sharded.folder import TERMS, ShardFolder
from pipeline.sparse.model import SparseModel
from pipeline.sparse.shard import Weighted, open_term_shard
from pipeline.sparse.stage import DIRECTORY

# Queries sent to the shards at once
_BATCH = 256

SparseSearch = Callable[[Sequence[str], int], list[list[Hit]]]  # query texts, top_k -> hits of each query


@contextmanager
def open_sparse(recipe: Recipe, sparse: Artifact) -> Iterator[SparseSearch]:
    """A search over a finished sparse stage, for many calls: the model and the shards are held in memory.

    It gives the exact best passages of each query: by score, equal scores by passage id, also at the cut-off. Only
    passages that share a term with the query are hits: a list may be shorter than top_k, or empty. The search raises
    ValueError when top_k is below 1.
    """
    from pipeline.ray_session import ensure_ray

    assert recipe.sparse is not None, "a finished stage has its section"
    ensure_ray(recipe.ray)
    model, folder = SparseModel(recipe.sparse), ShardFolder.of(sparse, DIRECTORY)
    files = folder.current().shards[TERMS]
    opening: list[Callable[[], Searchable]] = [partial(open_term_shard, folder, each) for each in files]
    with ShardActors("sparse", opening, Demand.of(recipe.index.placement)) as shards:
        yield partial(_search, model, shards)


def _search(model: SparseModel, shards: ShardActors, texts: Sequence[str], top_k: int) -> list[list[Hit]]:
    if top_k < 1:
        raise ValueError(f"top-K must be at least 1, not {top_k}.")
    batches = (_weighted(model, texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH))
    return [hits for answer in shards.search_all(batches, top_k) for hits in answer.whole().hits()]


def _weighted(model: SparseModel, texts: Sequence[str]) -> list[Weighted]:
    weights = model.encode_queries(texts)
    cuts = weights.indptr[1:-1]
    return list(map(Weighted, np.split(weights.indices, cuts), np.split(weights.data, cuts)))
