"""What a server's headers ask for."""

import asyncio
from typing import TYPE_CHECKING

import pytest
from multidict import CIMultiDict

from pipeline.llm.engines.endpoint import (
    NO_COMPLETION,
    Address,
    Endpoint,
    _after_s,
    addresses,
    chat_parameters,
    read_completion,
)
from pipeline.llm.requests import Sampling
from pipeline.llm.responses import Answer
from pipeline.recipe import LlmSection
from tests.asked import build

if TYPE_CHECKING:
    from tests.conftest import ChatServer


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "in a while"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0.5s"}, 360.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "12", "x-ratelimit-reset-tokens": "1h"}, None),
        ({}, None),
    ],
)
def test_wait_is_what_the_server_asks_for(headers: dict[str, str], seconds: float | None):
    """Asked again too early, a rate-limited key is locked for longer."""
    found = _after_s(CIMultiDict(headers))
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_choices_and_template_arguments_are_sent_as_a_vllm_server_takes_them():
    held = LlmSection(base_url="http://a/v1", model="m", chat_template={"enable_thinking": False})
    asked = build("m", "verdict", [[{"role": "user", "content": "x"}]], Sampling(0, 8, choices=("yes", "no")))
    body = chat_parameters(asked.to_pylist()[0], held, addresses(held)[0])
    assert body["structured_outputs"] == {"choice": ["yes", "no"]}
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    plain = build("m", "verdict", [[{"role": "user", "content": "x"}]], Sampling(0, 8)).to_pylist()[0]
    section = LlmSection(base_url="http://a/v1", model="m")
    assert set(chat_parameters(plain, section, addresses(section)[0])) == {
        "model",
        "messages",
        "temperature",
        "max_tokens",
    }


def test_whatever_a_server_sends_can_be_stored():
    """One row that Parquet refuses would take the answers beside it along."""

    def read(content: object, **more: object) -> Answer:
        return read_completion("a", {"choices": [{"message": {"content": content}, **more}]})

    assert read("half \ud800 a pair").text == "half \ufffd a pair"
    assert read("\ud83d\ude00").text == "\U0001f600"
    assert read([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]).text == "in parts"
    broken = read("half an", finish_reason="error")
    assert (broken.finish_reason, broken.text) == ("error", "") and "broke off" in str(broken.error)
    for content in ({"a": 1}, 7, [1], [{"type": "text", "text": 1}]):
        with pytest.raises(NO_COMPLETION):
            read(content)
    for tokens in (1e30, float("inf"), -1, "many", [1]):
        with pytest.raises(NO_COMPLETION):
            usage = {"prompt_tokens": tokens}
            read_completion("a", {"choices": [{"message": {"content": "x"}}], "usage": usage})


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ({"headers": {"Content-Type": "application/json; charset=iso-8859-1"}}, "answer to Größe"),
        ({"headers": {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1.2.3s"}}, "answer to Größe"),
        ({"body": "[" * 200_000}, ""),
        ({"body": '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1e999}}'}, ""),
    ],
)
def test_odd_answer_is_read_or_refused_and_never_an_exception(
    chat_server: "ChatServer", reply: dict[str, object], text: str
):
    chat_server.reply = lambda *_: reply
    section = LlmSection(engine="openai", model="m", base_url=chat_server.url)
    rows = build("m", "p", [[{"role": "user", "content": "Größe"}]], Sampling(0, 8))

    async def answer() -> Answer:
        endpoint = Endpoint(addresses(section)[0], section)
        return (await endpoint.ask(rows.to_pylist()[0], endpoint.lane.enter())).answer

    found = asyncio.run(answer())
    assert found.text == text and (found.error is None) == bool(text)


def test_rate_that_an_answer_says_is_used_up_is_waited_for(chat_server: "ChatServer"):
    """The next request would be turned away, and some providers count that, too."""
    left = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20s"}
    chat_server.reply = lambda content, _: {"headers": left if content == "last" else {}}
    section = LlmSection(engine="openai", model="m", base_url=chat_server.url)

    async def rooms() -> list[int]:
        endpoint = Endpoint(addresses(section)[0], section)
        found = []
        for content in ("first", "last"):
            rows = build("m", "p", [[{"role": "user", "content": content}]], Sampling(0, 8))
            attempt = await endpoint.ask(rows.to_pylist()[0], endpoint.lane.enter())
            assert attempt.answer.text == f"answer to {content}"
            found.append(endpoint.lane.room)
        assert 19 < endpoint.lane.wait_s <= 20
        return found

    assert asyncio.run(rooms()) == [16, 0]


def test_listed_endpoints_take_the_place_of_the_single_one():
    one = LlmSection(base_url="http://a/v1", api_key_env="A")
    assert addresses(one) == [Address("http://a/v1", "A")]
    two = one.model_copy(update={"endpoints": ()})
    assert addresses(two) == addresses(one)
    listed = LlmSection.model_validate({"base_url": "http://a/v1", "endpoints": [{"base_url": "http://b/v1"}]})
    assert addresses(listed) == [Address("http://b/v1", "OPENAI_API_KEY")]
