"""The real clients of other services, pointed at this server: they must work unchanged."""

import base64

import numpy as np
import pytest

from tests.collection.small import TEXTS
from tests.serving.conftest import KEY
from tests.serving.local import Server

DOCUMENTS = ["a ship with a mast", "bread from the oven", "salt"]


def unit(vector) -> np.ndarray:
    found = np.asarray(vector, dtype=np.float32)
    assert np.isclose(np.linalg.norm(found, axis=-1), 1, atol=1e-3).all()
    return found


@pytest.fixture
def vectors(client) -> np.ndarray:
    """What the plain route gives for `DOCUMENTS`."""
    found = client.post("/v1/embeddings", json={"input": DOCUMENTS}).json()["data"]
    return unit([each["embedding"] for each in found])


@pytest.fixture
def order(client) -> list[int]:
    """What the plain route gives for "bread" among `DOCUMENTS`."""
    found = client.post("/v1/rerank", json={"query": "bread", "documents": DOCUMENTS}).json()["results"]
    return [each["index"] for each in found]


def test_openai(server: Server, vectors: np.ndarray):
    from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI

    client = OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    found = client.embeddings.create(model="rayriever", input=DOCUMENTS)
    np.testing.assert_allclose(unit([each.embedding for each in found.data]), vectors, atol=1e-6)
    assert found.usage.total_tokens > 0
    coded = client.embeddings.create(model="rayriever", input=DOCUMENTS[0], encoding_format="base64").data[0]
    assert np.array_equal(np.frombuffer(base64.b64decode(str(coded.embedding)), "<f4"), vectors[0])
    assert "rayriever-query" in [each.id for each in client.models.list()]
    page = client.vector_stores.search("live", query="oven number 3", max_num_results=3)
    hits = list(page)
    assert len(hits) == 3 and hits[0].content[0].text == TEXTS[hits[0].file_id]
    with pytest.raises(NotFoundError, match="not served here"):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    with pytest.raises(BadRequestError, match="check_embedding_ctx_length"):
        client.embeddings.create(model="rayriever", input=[[1, 2]])
    with pytest.raises(AuthenticationError):
        OpenAI(base_url=f"{server.url}/v1", api_key=KEY[:-1], max_retries=0).models.list()


@pytest.mark.parametrize("version", ["Client", "ClientV2"])
def test_cohere(server: Server, order: list[int], version: str):
    import cohere

    client = getattr(cohere, version)(api_key=KEY, base_url=server.url)
    answer = client.rerank(model="rayriever-reranker", query="bread", documents=DOCUMENTS, top_n=2)
    assert [each.index for each in answer.results] == order[:2]
    assert all(0 <= each.relevance_score <= 1 for each in answer.results)
    with pytest.raises(cohere.UnauthorizedError):
        getattr(cohere, version)(api_key="wrong-key-wrong-key", base_url=server.url).rerank(
            model="rayriever-reranker", query="bread", documents=DOCUMENTS
        )


def test_langchain_openai(server: Server, vectors: np.ndarray):
    from langchain_openai import OpenAIEmbeddings

    settings = {"model": "rayriever", "base_url": f"{server.url}/v1", "api_key": KEY}
    client = OpenAIEmbeddings(**settings, check_embedding_ctx_length=False)
    np.testing.assert_allclose(unit(client.embed_documents(DOCUMENTS)), vectors, atol=1e-6)
    assert unit(client.embed_query("bread")).shape == vectors[0].shape


def test_langchain_cohere(server: Server, order: list[int]):
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    client = CohereRerank(model="rayriever-reranker", cohere_api_key=KEY, base_url=server.url, top_n=3)
    found = client.compress_documents([Document(page_content=text) for text in DOCUMENTS], "bread")
    assert [each.page_content for each in found] == [DOCUMENTS[place] for place in order]


def test_langchain_jina(server: Server, order: list[int], monkeypatch: pytest.MonkeyPatch):
    from langchain_community.document_compressors import jina_rerank
    from langchain_core.documents import Document

    monkeypatch.setattr(jina_rerank, "JINA_API_URL", f"{server.url}/v1/rerank")
    client = jina_rerank.JinaRerank(model="rayriever-reranker", jina_api_key=KEY)
    found = client.compress_documents([Document(page_content=text) for text in DOCUMENTS[:2]], "bread")
    assert len(found) == 2 and 0 <= found[0].metadata["relevance_score"] <= 1


@pytest.mark.parametrize("provider", ["cohere", "jina_ai", "hosted_vllm"])
def test_litellm_reranks(server: Server, order: list[int], provider: str):
    import litellm

    answer = litellm.rerank(
        model=f"{provider}/rayriever-reranker",
        query="bread",
        documents=DOCUMENTS,
        top_n=3,
        return_documents=True,
        api_base=server.url if provider != "jina_ai" else f"{server.url}/v1/rerank",
        api_key=KEY,
    )
    assert [each["index"] for each in answer.results] == order


def test_litellm_embeds(server: Server, vectors: np.ndarray):
    import litellm

    answer = litellm.embedding(model="openai/rayriever", input=DOCUMENTS, api_base=f"{server.url}/v1", api_key=KEY)
    np.testing.assert_allclose(unit([each["embedding"] for each in answer.data]), vectors, atol=1e-6)


def test_huggingface_hub(server: Server, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import InferenceClient

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as it is for users
    client = InferenceClient(model=f"{server.url}/embed", token=KEY)
    np.testing.assert_allclose(unit(client.feature_extraction(DOCUMENTS[0])).reshape(-1), vectors[0], atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_no_request_of_any_shape_makes_the_server_fail(server: Server):
    """Requests made from the OpenAPI document, and ones that break it."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import not_a_server_error

    headers = {"Authorization": f"Bearer {KEY}"}
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=headers)
    asked = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.startswith("/v1/documents") and operation.method.upper() != "GET":
            continue  # would change the collection that all tests share

        @settings(
            max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            answer = case.call(headers=headers)
            asked.add((case.operation.path, answer.status_code // 100))
            case.validate_response(answer, checks=(not_a_server_error,))

        check()
    assert {"/v1/search", "/v1/embeddings", "/v2/rerank", "/embed"} <= {path for path, _ in asked}
    assert {2, 4} <= {status for _, status in asked}
