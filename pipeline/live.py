"""Ask finished indexes a question: the base encoder and every trained one side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.encoder.systems import dense_systems
from pipeline.errors import RayrieverError
from pipeline.mining.search import search_index
from pipeline.recipe import Recipe
from pipeline.workspace import Artifact

_NEEDED = ("corpus", "index_base", "distill", "index_tuned")


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
    """Encoder name -> hits of each query, for every encoder that is finished.

    Raises RayrieverError when a stage has not run that the base or the tuned encoder needs.
    """
    missing = [name for name in _NEEDED if name not in finished]
    if missing:
        raise RayrieverError(f"search: not finished yet: {', '.join(missing)}. First: rayriever run RECIPE.")
    found = {
        each.name: search_index(recipe, finished[each.index], each.model(finished), queries, top_k)
        for each in dense_systems(finished)
    }
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
