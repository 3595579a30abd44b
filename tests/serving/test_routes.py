"""Routes over a real socket: what clients of each dialect rely on, and what a broken client gets."""

import base64
import math

import httpx2 as httpx
import numpy as np
import pytest

from pipeline.collection.about import collection_folder
from pipeline.collection.models import ENCODER, RERANKER, fetch_model
from pipeline.encoder.encode import Encoder
from pipeline.encoder.model import load_model
from pipeline.recipe import Recipe
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.score import Scorer
from pipeline.workspace import Workspace
from tests.collection.small import TEXTS


@pytest.fixture(scope="module")
def encoder(published: Recipe) -> Encoder:
    folder = collection_folder(Workspace(published.workspace))
    return Encoder(load_model(published.encoder, fetch_model(folder, folder.current(), ENCODER)), "float32", 512)


@pytest.fixture(scope="module")
def scorer(published: Recipe) -> Scorer:
    folder = collection_folder(Workspace(published.workspace))
    return Scorer(load_scorer_model(published.scorer, fetch_model(folder, folder.current(), RERANKER)), "float32", 512)


def vectors(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array([each["embedding"] for each in answer.json()["data"]], dtype=np.float32)


def error(answer: httpx.Response, status: int) -> dict[str, str]:
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert list(told) == ["error"] and set(told["error"]) == {"message", "type", "param", "code"}
    return told["error"]


def test_embeddings_are_the_encoder_s_in_the_order_of_the_input(client: httpx.Client, encoder: Encoder):
    texts = ["oven number 3", "a", "the tide and the keel " * 5]
    answer = client.post("/v1/embeddings", json={"input": texts, "model": "rayriever"})
    np.testing.assert_allclose(vectors(answer), encoder.encode_passages(texts), atol=1e-6)
    assert [each["index"] for each in answer.json()["data"]] == [0, 1, 2]
    counts = encoder.encode(texts, "document")[1]
    assert answer.json()["usage"] == {"prompt_tokens": counts.sum(), "total_tokens": counts.sum()}


def test_base64_is_little_endian_float32(client: httpx.Client):
    plain = vectors(client.post("/v1/embeddings", json={"input": "oven"}))
    coded = client.post("/v1/embeddings", json={"input": "oven", "encoding_format": "base64"}).json()["data"][0]
    assert np.array_equal(np.frombuffer(base64.b64decode(coded["embedding"]), "<f4"), plain[0])


@pytest.mark.parametrize(
    "said",
    [
        {"input_type": "search_query"},
        {"prompt_name": "query"},
        {"task": "retrieval.query"},
        {"model": "rayriever-query"},
    ],
)
def test_a_query_is_encoded_as_one_however_it_is_said(client: httpx.Client, encoder: Encoder, said: dict[str, str]):
    encoder.model.prompts["query"] = encoder.model.prompts.get("query") or ""
    found = vectors(client.post("/v1/embeddings", json={"input": "oven", **said}))
    np.testing.assert_allclose(found, encoder.encode_queries(["oven"]), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "param", "hint"),
    [
        ({"input": [1, 2, 3]}, "input", "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, "input", "check_embedding_ctx_length=False"),
        ({"input": []}, "input", ""),
        ({"input": ""}, "input", "empty"),
        ({"input": ["a", ""]}, "input", "input.1"),
        ({"input": ["a", 1]}, "input", ""),
        ({"input": None}, "input", ""),
        ({}, "input", "required"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", ""),
        ({"input": "a", "dimensions": 7}, "dimensions", "trained for"),
        ({"input": "a", "dimensions": 0}, "dimensions", ""),
        ({"input": "a", "input_type": "classification"}, "input_type", "is not among"),
        ({"input": ["a"] * 2049}, "input", "2,049"),
        ({"input": "a" * 200_001}, "input", "200,001"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_field(client: httpx.Client, body, param: str, hint: str):
    told = error(client.post("/v1/embeddings", json=body), 400)
    assert told["param"].split(".")[0] == param and hint in told["message"]


def test_nulls_and_unknown_keys_are_as_if_absent(client: httpx.Client):
    sent = {"input": "a", "dimensions": None, "encoding_format": None, "user": None, "input_type": None, "x": {"y": 1}}
    assert client.post("/v1/embeddings", json=sent).status_code == 200


def test_another_model_is_404_with_those_that_are_served(client: httpx.Client):
    told = error(client.post("/v1/embeddings", json={"input": "a", "model": "text-embedding-3"}), 404)
    assert told["code"] == "model_not_found" and "rayriever-query" in told["message"]
    names = [each["id"] for each in client.get("/v1/models").json()["data"]]
    assert names == ["rayriever", "rayriever-query", "rayriever-passage", "rayriever-reranker"]
    assert client.get("/v1/models/rayriever-query").json()["id"] == "rayriever-query"
    error(client.get("/v1/models/other"), 404)


DOCUMENTS = ["a ship with a mast", "bread from the oven", "salt"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_reranking_is_the_model_s_order_with_scores_from_0_to_1(client: httpx.Client, scorer: Scorer, path: str):
    answer = client.post(path, json={"query": "bread", "documents": DOCUMENTS, "model": "rayriever-reranker"}).json()
    logits = scorer.score("bread", DOCUMENTS)
    assert [each["index"] for each in answer["results"]] == np.argsort(-logits, kind="stable").tolist()
    for each in answer["results"]:
        assert set(each) == {"index", "relevance_score"}
        assert each["relevance_score"] == pytest.approx(1 / (1 + math.exp(-logits[each["index"]])), abs=1e-6)
    assert answer["meta"]["billed_units"] == {"search_units": 1} and answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(("top_n", "kept"), [(1, 1), (3, 3), (99, 3), (None, 3)])
def test_top_n_is_clamped(client: httpx.Client, top_n, kept: int):
    answer = client.post("/v1/rerank", json={"query": "q", "documents": DOCUMENTS, "top_n": top_n}).json()
    assert len(answer["results"]) == kept


def test_documents_come_back_as_objects_and_only_when_asked_for(client: httpx.Client):
    sent = {"query": "q", "documents": [{"text": "a"}, "b"], "return_documents": True, "max_tokens_per_doc": None}
    results = client.post("/v2/rerank", json=sent).json()["results"]
    assert {each["index"]: each["document"] for each in results} == {0: {"text": "a"}, 1: {"text": "b"}}
    plain = client.post("/v2/rerank", json=sent | {"return_documents": None}).json()["results"]
    assert not any("document" in each for each in plain)


def test_texts_instead_of_documents_get_the_bare_list(client: httpx.Client, scorer: Scorer):
    sent = {"query": "bread", "texts": DOCUMENTS}
    found = client.post("/rerank", json=sent).json()
    assert [set(each) for each in found] == [{"index", "score"}] * 3
    raw = client.post("/rerank", json=sent | {"raw_scores": True, "return_text": True}).json()
    assert raw[0]["text"] == DOCUMENTS[raw[0]["index"]]
    np.testing.assert_allclose(
        sorted(each["score"] for each in raw), np.sort(scorer.score("bread", DOCUMENTS)), atol=1e-5
    )


@pytest.mark.parametrize(
    "body",
    [
        {"query": "q", "documents": []},
        {"query": "q"},
        {"documents": ["a"]},
        {"query": " ", "documents": ["a"]},
        {"query": "q", "documents": ["a"], "top_n": 0},
        {"query": "q", "documents": [{"title": "a"}]},
        {"query": "q", "documents": [None]},
        {"query": 7, "documents": ["a"]},
    ],
)
def test_what_cannot_be_reranked_is_400(client: httpx.Client, body):
    error(client.post("/v1/rerank", json=body), 400)


def test_a_vector_store_answers_with_passages_as_files(client: httpx.Client):
    page = client.post("/v1/vector_stores/live/search", json={"query": "oven number 3", "max_num_results": 4}).json()
    assert page["object"] == "vector_store.search_results.page" and page["has_more"] is False
    assert len(page["data"]) == 4 and page["data"][0]["content"] == [
        {"type": "text", "text": TEXTS[page["data"][0]["file_id"]]}
    ]
    scores = [each["score"] for each in page["data"]]
    assert scores == sorted(scores, reverse=True)
    error(client.post("/v1/vector_stores/other/search", json={"query": "oven"}), 404)


def test_a_filter_and_a_threshold_leave_only_what_fits(client: httpx.Client):
    wanted = ["p01", "p02", "x05"]
    given = {
        "type": "and",
        "filters": [{"type": "in", "key": "file_id", "value": wanted}, {"type": "ne", "key": "title", "value": "z"}],
    }
    page = client.post(
        "/v1/vector_stores/live/search", json={"query": "oven", "max_num_results": 50, "filters": given}
    ).json()
    assert {each["file_id"] for each in page["data"]} == set(wanted)
    middle = page["data"][1]["score"]
    options = {"ranker": "auto", "score_threshold": middle}
    cut = client.post(
        "/v1/vector_stores/live/search", json={"query": "oven", "filters": given, "ranking_options": options}
    ).json()
    assert [each["score"] >= middle for each in cut["data"]] == [True, True]


@pytest.mark.parametrize(
    "given",
    [
        {"type": "eq", "key": "author", "value": "x"},
        {"type": "like", "key": "title", "value": "x"},
        {"type": "eq", "key": "title", "value": 3},
        {"type": "in", "key": "title", "value": "x"},
        {"type": "and", "filters": []},
        {"type": "and", "filters": ["x"]},
        {},
        {"type": ["eq"], "key": "title", "value": "x"},
    ],
)
def test_a_filter_that_cannot_be_read_is_refused(client: httpx.Client, given):
    told = error(client.post("/v1/vector_stores/live/search", json={"query": "oven", "filters": given}), 400)
    assert told["param"] == "filters"


def nested(depth: int):
    return {"type": "and", "filters": [nested(depth - 1)]} if depth else {"type": "eq", "key": "title", "value": ""}


def test_filters_nest_only_so_deep(client: httpx.Client):
    assert client.post("/v1/search", json={"query": "oven", "filters": nested(8)}).status_code == 200
    error(client.post("/v1/search", json={"query": "oven", "filters": nested(9)}), 400)
