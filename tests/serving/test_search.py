"""Searches over HTTP against a search of the same files by hand: modes, fusion, reranking, slots."""

import asyncio
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest

from pipeline.collection.about import collection_folder
from pipeline.collection.models import ENCODER, RERANKER, fetch_model
from pipeline.collection.reader import CollectionReader
from pipeline.encoder.encode import Encoder
from pipeline.encoder.model import load_model
from pipeline.fusion import reciprocal_rank
from pipeline.rankings import Hit, rerank
from pipeline.recipe import Recipe
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.score import Scorer
from pipeline.workspace import Workspace
from serving.backend import FanOut, Here
from serving.generations import Ref
from serving.parts import Parts, about_of
from serving.search import Search, search
from tests.collection.small import TEXTS

QUERIES = ["oven number 3", "tide salt", "page 1"]


class ByHand:
    """First stages and reranker of the published collection, called directly."""

    def __init__(self, recipe: Recipe, reader: CollectionReader) -> None:
        self.reader = reader
        folder = collection_folder(Workspace(recipe.workspace))
        model = load_model(recipe.encoder, fetch_model(folder, folder.current(), ENCODER))
        self.encoder = Encoder(model, "float32", 512)
        reranker = fetch_model(folder, folder.current(), RERANKER)
        self.scorer = Scorer(load_scorer_model(recipe.scorer, reranker), "float32", 512)

    def bm25(self, query: str, k: int) -> list[Hit]:
        with self.reader.snapshot() as snapshot:
            return snapshot.words.search([query], k)[0]

    def dense(self, query: str, k: int) -> list[Hit]:
        with self.reader.snapshot() as snapshot:
            return snapshot.index.search(self.encoder.encode_queries([query]), k)[0]

    def hybrid(self, query: str, k: int) -> list[Hit]:
        return reciprocal_rank([self.bm25(query, 100), self.dense(query, 100)], 60, k)

    def reranked(self, query: str, hits: list[Hit]) -> list[Hit]:
        return rerank(hits, self.scorer.score(query, [TEXTS[hit.passage_id] for hit in hits]))


@pytest.fixture(scope="module")
def by_hand(published: Recipe):
    with CollectionReader(collection_folder(Workspace(published.workspace)), published.index) as reader:
        yield ByHand(published, reader)


def ids(hits) -> list[str]:
    return [hit["id"] if isinstance(hit, dict) else hit.passage_id for hit in hits]


@pytest.mark.parametrize("mode", ["bm25", "dense", "hybrid"])
def test_every_mode_finds_what_a_search_by_hand_finds(client: httpx.Client, by_hand: ByHand, mode: str):
    answer = client.post("/v1/search", json={"queries": QUERIES, "mode": mode, "top_k": 8, "rerank": False}).json()
    for query, result in zip(QUERIES, answer["results"], strict=True):
        wanted = getattr(by_hand, mode)(query, 8)
        assert result["query"] == query and ids(result["hits"]) == ids(wanted)
        np.testing.assert_allclose([hit["score"] for hit in result["hits"]], [hit.score for hit in wanted], rtol=1e-5)


def test_a_hit_has_the_score_of_every_stage_that_saw_it(client: httpx.Client, by_hand: ByHand):
    hits = client.post("/v1/search", json={"query": "tide salt", "mode": "hybrid"}).json()["results"][0]["hits"]
    assert all({"dense", "fused", "rerank"} <= set(hit["scores"]) for hit in hits)
    worded = dict(by_hand.bm25("tide salt", 50))
    assert {hit["id"]: hit["scores"].get("bm25") for hit in hits} == {
        hit["id"]: pytest.approx(worded[hit["id"]]) if hit["id"] in worded else None for hit in hits
    }
    assert all(hit["score"] == hit["scores"]["rerank"] and hit["text"] == TEXTS[hit["id"]] for hit in hits)


def test_the_shipped_reranker_orders_as_many_hits_as_it_was_found_to_help(client: httpx.Client, by_hand: ByHand):
    result = client.post("/v1/search", json={"query": "oven", "top_k": 3}).json()["results"][0]
    assert ids(result["hits"]) == ids(by_hand.reranked("oven", by_hand.hybrid("oven", 5)))[:3]
    deeper = client.post("/v1/search", json={"query": "oven", "top_k": 3, "rerank_top_k": 30}).json()["results"][0]
    assert ids(deeper["hits"]) == ids(by_hand.reranked("oven", by_hand.hybrid("oven", 30)))[:3]
    more = client.post("/v1/search", json={"query": "oven", "top_k": 9}).json()["results"][0]
    assert ids(more["hits"]) == ids(by_hand.reranked("oven", by_hand.hybrid("oven", 9))), (
        "every hit has one kind of score"
    )


@pytest.mark.parametrize(("slots", "words"), [(1, 1), (2, 1), (3, 2), (5, 4)])
def test_slots_together_are_one_index(published: Recipe, by_hand: ByHand, slots: int, words: int):
    """More slots than shards, too: some then hold nothing."""
    serve = published.serve.model_copy(update={"vector_slots": slots, "word_slots": words})
    recipe = published.model_copy(update={"serve": serve})
    backend, ref = FanOut(Parts.here(recipe), Here()), Ref("live", 1)
    asked = Search(QUERIES, 12, "hybrid")
    answer = asyncio.run(search(backend, ref, about_of(recipe, ref), asked))
    assert [ids(hits) for hits in answer.hits] == [ids(by_hand.hybrid(query, 12)) for query in QUERIES]


def test_a_filter_leaves_the_best_of_what_it_lets_through(client: httpx.Client, by_hand: ByHand):
    wanted = [f"x{n:02d}" for n in range(0, 20, 2)]
    given = {"type": "in", "key": "passage_id", "value": [*wanted, "not there"]}
    sent = {"query": "page 1", "mode": "dense", "top_k": 20, "rerank": False, "filters": given}
    found = ids(client.post("/v1/search", json=sent).json()["results"][0]["hits"])
    assert found == [i for i in ids(by_hand.dense("page 1", 100)) if i in wanted]


def test_nothing_found_is_an_empty_answer(client: httpx.Client):
    result = client.post("/v1/search", json={"query": "xylophone", "mode": "bm25"}).json()["results"][0]
    assert result["hits"] == []


def test_a_query_of_ten_thousand_characters_is_searched(client: httpx.Client):
    assert client.post("/v1/search", json={"query": "oven " * 2000}).json()["results"][0]["hits"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": "a", "queries": ["b"]},
        {"queries": []},
        {"query": "  "},
        {"query": "a", "top_k": 0},
        {"query": "a", "top_k": 1001},
        {"query": "a", "mode": "magic"},
        {"query": "a", "include": ["vectors"]},
        {"query": "a", "top_k": 1.5},
        {"query": "a", "collection": "../live"},
    ],
)
def test_what_cannot_be_searched_is_refused(client: httpx.Client, body):
    assert client.post("/v1/search", json=body).status_code == (404 if "collection" in body else 400)


def test_without_a_reranker_one_that_is_asked_for_is_said_to_be_missing(
    tmp_path: Path, tiny_encoder: Path, ray_cluster
):
    from tests.collection.small import publish_small, recipe_of
    from tests.serving.local import serving

    recipe = recipe_of(tmp_path / "plain", tiny_encoder)
    publish_small(recipe)
    with serving(recipe) as server, httpx.Client(base_url=server.url) as client:
        assert client.post("/v1/search", json={"query": "oven"}).status_code == 200
        for path, body in (
            ("/v1/search", {"query": "oven", "rerank": True}),
            ("/v1/rerank", {"query": "q", "documents": ["d"]}),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code == 404 and "has no reranker" in answer.json()["error"]["message"]
        assert "rayriever-reranker" not in [each["id"] for each in client.get("/v1/models").json()["data"]]
