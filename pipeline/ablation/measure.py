"""Per-query nDCG@10 of an encoder on the judged queries, kept in the workspace so that it is searched for once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifact import Artifact
from pipeline.corpus.duplicates import representatives
from pipeline.digest import digest
from pipeline.encoder.systems import BASE, dense_systems
from pipeline.errors import RayrieverError
from pipeline.evaluation import metrics
from pipeline.evaluation.reranking_stage import pool, reranked, score_pool
from pipeline.lexical.search import open_words
from pipeline.mining.search import fused_hits, search_index
from pipeline.progress import Progress
from pipeline.queries.read import EVALUATED
from pipeline.queries.read import judged_queries as judged_rows
from pipeline.rankings import Hit, to_table
from pipeline.recipe import Recipe
from pipeline.workspace import Workspace

FOLDER = "ablation"
_VERSION = 1  # raised when the same inputs come to other figures
_DEPTH = 10  # hits that nDCG@10 sees


@dataclass(frozen=True)
class Judged:
    """The dev and test queries that every system is measured on."""

    identity: str  # of the artifact they come from
    queries: pa.Table  # rows of records.QUERY with a judgment, by query id
    judgments: pa.Table  # rows of records.JUDGMENT of these queries, by query and passage id
    unseen: frozenset[str]  # queries none of whose relevant passages, or a near-duplicate of one, train knows

    def of(self, split: str) -> list[str]:
        """Ids of the queries of a split, in ascending order."""
        ids: list[str] = self.queries.filter(pc.equal(self.queries["split"], split))["query_id"].to_pylist()
        return ids


@dataclass(frozen=True)
class Trial:
    """What one system reached with one seed."""

    index: str  # identity of the index that was searched
    train_seconds: float
    ndcg: Mapping[str, float]  # by query id


def judged_queries(artifacts: Mapping[str, Artifact]) -> Judged:
    """The judged dev and test queries of a run. Raises RayrieverError where there are none."""
    source = artifacts["queries"]
    queries, judgments = source.table("queries"), source.table("judgments")
    evaluated = judged_rows(source)
    if not evaluated.num_rows:
        raise RayrieverError("ablate: no dev or test query has a judgment. Give some, or raise queries.dev_share.")
    of_these = metrics.judgments_of(judgments, evaluated["query_id"].to_pylist())
    unseen = unseen_queries(queries, judgments, artifacts["corpus"].table("duplicates"))
    order = [("query_id", "ascending"), ("passage_id", "ascending")]
    return Judged(source.manifest.identity, evaluated, of_these.sort_by(order), unseen)


def unseen_queries(queries: pa.Table, judgments: pa.Table, duplicates: pa.Table) -> frozenset[str]:
    """Dev and test queries that share no relevant passage with a train query, near-duplicates being the same.

    Args: rows of `records.QUERY`, `records.JUDGMENT` and `records.DUPLICATE`.
    """
    same = representatives(duplicates)
    split = dict(zip(queries["query_id"].to_pylist(), queries["split"].to_pylist(), strict=True))
    relevant = judgments.filter(pc.greater(judgments["grade"], 0))
    ids, passages = relevant["query_id"].to_pylist(), relevant["passage_id"].to_pylist()
    pairs = [(query_id, same.get(passage_id, passage_id)) for query_id, passage_id in zip(ids, passages, strict=True)]
    trained = {passage_id for query_id, passage_id in pairs if split[query_id] == "train"}
    seen = {query_id for query_id, passage_id in pairs if passage_id in trained}
    return frozenset(query_id for query_id, name in split.items() if name in EVALUATED and query_id not in seen)


def measure_lexical(recipe: Recipe, artifacts: Mapping[str, Artifact], judged: Judged) -> Trial:
    """BM25 with the recipe's k1, b and stemmer."""
    words = artifacts["words"]

    def rank(texts: list[str]) -> list[list[Hit]]:
        with open_words(recipe, words) as search:
            return search(texts, _DEPTH)

    searched = {"words": words.manifest.identity}
    return Trial(words.manifest.identity, 0.0, _stored_ndcg(words.workspace, searched, judged, rank))


def measure_encoder(
    recipe: Recipe, artifacts: Mapping[str, Artifact], judged: Judged, encoder: str = BASE
) -> Trial | None:
    """The encoder of that name among the artifacts; None where it was not made.

    Raises RayrieverError where its run has other dev or test queries: its figures could not be compared.
    """
    systems = {each.name: each for each in dense_systems(artifacts)}
    if encoder not in systems:
        return None
    check_comparable(artifacts, judged)
    system = systems[encoder]
    index = artifacts[system.index]

    def rank(texts: list[str]) -> list[list[Hit]]:
        return search_index(recipe, index, system.model(artifacts), texts, _DEPTH)

    names = list(systems)
    trained = [systems[name].training for name in names[: names.index(encoder) + 1]]
    seconds = sum(artifacts[stage].manifest.seconds for stage in trained if stage is not None)
    searched = {"index": index.manifest.identity}
    return Trial(index.manifest.identity, seconds, _stored_ndcg(index.workspace, searched, judged, rank))


def measure_first_stage(recipe: Recipe, artifacts: Mapping[str, Artifact], judged: Judged, depth: int) -> Trial:
    """BM25 and the newest encoder, fused by rank: what all rerankers put in order, `depth` hits of each."""
    searched = _searched(recipe, artifacts, depth)

    def rank(texts: list[str]) -> list[list[Hit]]:
        return _first_stage(recipe, artifacts, texts, depth)

    return Trial(searched["index"], 0.0, _stored_ndcg(artifacts["corpus"].workspace, searched, judged, rank))


def measure_reranked(
    recipe: Recipe, artifacts: Mapping[str, Artifact], judged: Judged, first: Trial, depth: int, progress: Progress
) -> Trial | None:
    """The first stage with `depth` hits reranked; None where there is no reranker.

    Raises RayrieverError as `measure_encoder` does, and for a run whose first stage is another one.
    """
    if "rerank" not in artifacts:
        return None
    check_comparable(artifacts, judged)
    if _searched(recipe, artifacts, depth)["index"] != first.index:
        raise RayrieverError(
            "its encoder is not the recipe's, so its reranker puts other hits in order. With section rerank, arms vary "
            "candidates, permutations, scorer and rerank alone."
        )
    trained, corpus = artifacts["rerank"].manifest, artifacts["corpus"]

    def rank(texts: list[str]) -> list[list[Hit]]:
        queries = {str(number): text for number, text in enumerate(texts)}
        hits = dict(zip(queries, _first_stage(recipe, artifacts, texts, depth), strict=True))
        scores = score_pool(recipe, corpus, trained.place, queries, pool([hits], depth), progress)
        return list(reranked(hits, dict(scores), depth).values())

    searched = _searched(recipe, artifacts, depth) | {
        "reranker": trained.identity,
        "scorer": recipe.scorer.result_fields(),
        "depth": depth,
    }
    return Trial(trained.identity, trained.seconds, _stored_ndcg(corpus.workspace, searched, judged, rank))


def _first_stage(
    recipe: Recipe, artifacts: Mapping[str, Artifact], texts: Sequence[str], depth: int
) -> list[list[Hit]]:
    return fused_hits(recipe, artifacts, texts, _fused_depth(depth))


def _fused_depth(depth: int) -> int:
    """Hits of each side that are fused: how deep they are fused changes the order of the first ones too."""
    return max(depth, _DEPTH)


def _searched(recipe: Recipe, artifacts: Mapping[str, Artifact], depth: int) -> dict[str, Any]:
    """What the hits of the first stage depend on."""
    index = artifacts[dense_systems(artifacts)[-1].index].manifest.identity
    words, rrf_k = artifacts["words"].manifest.identity, recipe.evaluate.rrf_k
    return {"words": words, "index": index, "rrf_k": rrf_k, "fused_depth": _fused_depth(depth)}


def check_comparable(artifacts: Mapping[str, Artifact], judged: Judged) -> None:
    """Raise RayrieverError unless the run's dev and test queries and their judgments are those that are measured."""
    if artifacts["queries"].manifest.identity == judged.identity:
        return
    own = judged_queries(artifacts)
    if not (own.queries.equals(judged.queries) and own.judgments.equals(judged.judgments)):
        raise RayrieverError(
            "its dev or test queries are not the recipe's, so its figures cannot be compared. Give the recipe dev "
            "and test queries of its own, or leave queries, lexical and seed out of the arm."
        )


def _stored_ndcg(
    workspace: Workspace, searched: Mapping[str, Any], judged: Judged, rank: Callable[[list[str]], list[list[Hit]]]
) -> dict[str, float]:
    """What is stored under the identities of what is searched and of the queries; computed where nothing is."""
    key = digest({"version": _VERSION, "queries": judged.identity, **searched})
    path = workspace.path(FOLDER, f"{key}.json")
    content = workspace.read_bytes(path)
    if content is not None:
        stored: dict[str, float] = json.loads(content)
        return stored
    ids = judged.queries["query_id"].to_pylist()
    hits = dict(zip(ids, rank(judged.queries["text"].to_pylist()), strict=True))
    scores = metrics.score(to_table("searched", hits), judged.judgments, "searched").per_query
    values = dict(zip(scores["query_id"].to_pylist(), scores["ndcg_at_10"].to_pylist(), strict=True))
    workspace.write_bytes(path, json.dumps(values).encode())
    return values
