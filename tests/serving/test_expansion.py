"""Queries that an LLM expands: whose vector is searched, and what a failing LLM does to them."""

import json
from collections.abc import Callable

import httpx2 as httpx
import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.recipe import Recipe
from tests.collection.small import TEXTS, Counting
from tests.conftest import ChatServer
from tests.serving.local import serving

WRITTEN = "yeast number 1 and what makes bread rise"


def completion(text: str) -> dict[str, str]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"body": json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": {}})}


@pytest.fixture
def expanding(own: Callable[..., Recipe], chat_server: ChatServer) -> Callable[[str], Recipe]:
    def made(kind: str) -> Recipe:
        recipe = own(expansion=kind)
        llm = {"engine": "openai", "model": "test-model", "base_url": chat_server.url, "max_retries": 0}
        return Recipe.model_validate(recipe.model_dump() | {"llm": llm})

    return made


def asked(url: str, **more: object) -> httpx.Response:
    sent = {"query": "harbour", "mode": "dense", "rerank": False, "top_k": 5, "expand": True, **more}
    return httpx.post(f"{url}/v1/search", json=sent, timeout=60)


@pytest.mark.parametrize(("kind", "prompt"), [("passage", "Write a passage"), ("questions", "Break this question")])
def test_the_vector_of_what_the_llm_wrote_is_averaged_with_the_querys(
    kind: str, prompt: str, expanding: Callable[[str], Recipe], chat_server: ChatServer
):
    chat_server.reply = lambda content, attempt: completion(WRITTEN)
    recipe = expanding(kind)
    with serving(recipe) as server:
        answer = asked(server.url).json()
        plain = asked(server.url, expand=False).json()
    (result,) = answer["results"]
    assert result["expansion"] == WRITTEN and "expansion" not in plain["results"][0]
    ((content, times),) = chat_server.asked.items()
    assert prompt in content and "harbour" in content and times == 1
    encode = Counting(recipe)
    query, written = encode.vectors(["harbour", WRITTEN])
    both = (query + written) / np.linalg.norm(query + written)
    wanted = dict(zip(TEXTS, encode.vectors(list(TEXTS.values())) @ both, strict=True))
    assert [hit["id"] for hit in result["hits"]] == sorted(wanted, key=lambda i: -wanted[i])[:5]
    assert [hit["score"] for hit in result["hits"]] == pytest.approx(sorted(wanted.values())[::-1][:5], abs=1e-4)
    assert [hit["score"] for hit in plain["results"][0]["hits"]] != [hit["score"] for hit in result["hits"]]


@pytest.mark.parametrize(
    "reply", [{"status": 500}, {"body": "<html>"}, {"drop": True}, completion("I'm sorry"), completion("")]
)
def test_an_llm_that_fails_is_said_and_harms_no_other_search(
    reply: dict[str, object], expanding: Callable[[str], Recipe], chat_server: ChatServer
):
    chat_server.reply = lambda content, attempt: reply
    with serving(expanding("passage")) as server:
        answer = asked(server.url)
        assert answer.status_code == 502 and answer.json()["error"]["code"] == "expansion_failed"
        assert asked(server.url, expand=False).status_code == 200


def test_expansion_that_nothing_could_do_is_refused(own: Callable[..., Recipe], expanding: Callable[[str], Recipe]):
    with serving(own()) as server:
        assert "serve.expansion" in asked(server.url).json()["error"]["message"]
    with serving(expanding("passage")) as server:
        assert asked(server.url, mode="bm25").status_code == 400
    with pytest.raises(ValidationError, match=r"llm\.engine openai"):
        Recipe.model_validate(own().model_dump() | {"serve": {"expansion": "passage"}})
