"""Ask finished indexes a question: the base encoder, every trained one and the reranker side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifact import Artifact
from pipeline.encoder.systems import dense_systems
from pipeline.errors import RayrieverError
from pipeline.evaluation.reranking_stage import pool, score_pool
from pipeline.mining.search import fused_hits, search_index
from pipeline.progress import Silent
from pipeline.rankings import Hit, rerank
from pipeline.recipe import Recipe

RERANKED = "reranked"
_DEPTH = 50  # hits of BM25 and the newest encoder, fused, that are put in order
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
    """Encoder name -> hits of each query, for every encoder that is finished; and 'reranked', where a reranker is.

    Raises RayrieverError when a stage has not run that the base or the tuned encoder needs.
    """
    missing = [name for name in _NEEDED if name not in finished]
    if missing:
        raise RayrieverError(f"search: not finished yet: {', '.join(missing)}. First: rayriever run RECIPE.")
    found = {
        each.name: search_index(recipe, finished[each.index], each.model(finished), queries, top_k)
        for each in dense_systems(finished)
    }
    if "rerank" in finished:
        found[RERANKED] = _reranked(recipe, finished, queries, top_k)
    wanted = {hit.passage_id for rankings in found.values() for hits in rankings for hit in hits}
    passages = _passages(finished["corpus"], wanted)
    return {
        system: [
            [FoundPassage(hit.passage_id, hit.score, *passages[hit.passage_id]) for hit in hits] for hits in rankings
        ]
        for system, rankings in found.items()
    }


def _reranked(recipe: Recipe, finished: Mapping[str, Artifact], queries: Sequence[str], top_k: int) -> list[list[Hit]]:
    texts = {str(number): text for number, text in enumerate(queries)}
    hits = dict(zip(texts, fused_hits(recipe, finished, queries, max(_DEPTH, top_k)), strict=True))
    pooled, trained = pool([hits], max(_DEPTH, top_k)), finished["rerank"].manifest.place
    scores = dict(score_pool(recipe, finished["corpus"], trained, texts, pooled, Silent()))
    ranked = (rerank(of_query, [scores[i][hit.passage_id] for hit in of_query]) for i, of_query in hits.items())
    return [each[:top_k] for each in ranked]


def _passages(corpus: Artifact, wanted: set[str]) -> dict[str, tuple[str, str]]:
    table = corpus.table("passages", columns=["passage_id", "title", "text"])
    chosen = table.filter(pc.is_in(table["passage_id"], pa.array(sorted(wanted), pa.string())))
    return {row["passage_id"]: (row["title"], row["text"]) for row in chosen.to_pylist()}
