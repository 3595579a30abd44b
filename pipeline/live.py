"""Ask finished indexes a question: the base encoder and the tuned one side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe
from pipeline.workspace import Artifact

_SYSTEMS = {"base": "index_base", "tuned": "index_tuned"}


@dataclass(frozen=True)
class FoundPassage:
    """A hit with what a person needs to judge it."""

    passage_id: str
    score: float
    title: str
    text: str


def search(
    recipe: Recipe, finished: Mapping[str, Artifact], queries: Sequence[str], top_k: int
) -> dict[str, list[list[FoundPassage]]]:
    """System name -> hits of each query. Raises RayrieverError when a stage that is needed has not run."""
    from pipeline.encoder.encode import Encoder
    from pipeline.encoder.model import load_model
    from pipeline.index.search import ShardedIndex
    from pipeline.ray_session import ensure_ray

    missing = [name for name in ("corpus", "distill", *_SYSTEMS.values()) if name not in finished]
    if missing:
        raise RayrieverError(f"search: not finished yet: {', '.join(missing)}. First: rayriever run RECIPE.")
    ensure_ray(recipe.ray)
    section, found = recipe.encoder, {}
    for system, stage in _SYSTEMS.items():
        model = finished["distill"].directory("model") if system == "tuned" else None
        encoder = Encoder(load_model(section, model), section.dtype, section.tokens_per_batch)
        with ShardedIndex(finished[stage]) as index:
            found[system] = index.search(encoder.encode_queries(queries), top_k)
    wanted = {hit.passage_id for rankings in found.values() for hits in rankings for hit in hits}
    passages = _passages(finished["corpus"], wanted)
    return {
        system: [
            [FoundPassage(hit.passage_id, hit.score, *passages[hit.passage_id]) for hit in hits] for hits in rankings
        ]
        for system, rankings in found.items()
    }


def _passages(corpus: Artifact, wanted: set[str]) -> dict[str, tuple[str, str]]:
    table = corpus.table("passages", columns=["passage_id", "title", "text"])
    chosen = table.filter(pc.is_in(table["passage_id"], pa.array(sorted(wanted), pa.string())))
    return {row["passage_id"]: (row["title"], row["text"]) for row in chosen.to_pylist()}
