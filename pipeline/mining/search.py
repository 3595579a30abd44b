"""Rank the passages of a finished index for query texts, with the encoder that made its vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifact import Artifact
from pipeline.encoder.systems import dense_systems
from pipeline.fusion import reciprocal_rank
from pipeline.lexical.search import open_words
from pipeline.progress import Progress
from pipeline.rankings import Hit
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.encoder.encode import Encoder
    from pipeline.index.search import ShardedIndex

Search = Callable[[Sequence[str], int], list[list[Hit]]]  # query texts, top_k -> hits of each query


@contextmanager
def open_index(recipe: Recipe, index: Artifact, model: Path | None) -> Iterator[tuple[Encoder, ShardedIndex]]:
    """An encoder and the shards of the index that it made. Raises RayrieverError when it did not make them.

    Args:
        model: folder of the encoder that made the vectors; None is the recipe's base encoder.
    """
    from pipeline.encoder.encode import Encoder
    from pipeline.encoder.identity import identify
    from pipeline.encoder.model import load_model
    from pipeline.index.search import ShardedIndex, folder_of
    from pipeline.ray_session import ensure_ray

    section = recipe.encoder
    ensure_ray(recipe.ray)
    loaded = load_model(section, model)
    with ShardedIndex(folder_of(index), recipe.index) as shards:
        shards.check_encoder(identify(loaded))  # before its weights are cast
        yield Encoder(loaded, section.dtype, section.tokens_per_batch), shards


@contextmanager
def open_search(recipe: Recipe, index: Artifact, model: Path | None) -> Iterator[Search]:
    """A search over `index`, for many calls: the encoder is loaded and the shards are held in memory once."""
    with open_index(recipe, index, model) as (encoder, shards):
        yield lambda texts, top_k: shards.search(encoder.encode_queries(texts), top_k) if texts else []


def fused_hits(recipe: Recipe, artifacts: Mapping[str, Artifact], texts: Sequence[str], top_k: int) -> list[list[Hit]]:
    """Hits of BM25 and of the newest encoder, `top_k` of each, fused by rank to `top_k`."""
    newest = dense_systems(artifacts)[-1]
    with open_words(recipe, artifacts["words"]) as search:
        lexical = search(texts, top_k)
    dense = search_index(recipe, artifacts[newest.index], newest.model(artifacts), texts, top_k)
    return [reciprocal_rank(both, recipe.evaluate.rrf_k, top_k) for both in zip(lexical, dense, strict=True)]


def search_index(
    recipe: Recipe,
    index: Artifact,
    model: Path | None,
    texts: Sequence[str],
    top_k: int,
    progress: Progress | None = None,
) -> list[list[Hit]]:
    """The exact `top_k` hits of each text, as `open_search` finds them; progress is told at the end."""
    with open_search(recipe, index, model) as search:
        found = search(texts, top_k)
    if progress is not None:
        progress.update(f"queries searched, {index.manifest.stage}", len(texts), len(texts))
    return found
