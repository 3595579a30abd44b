"""Requests for an order of choices: their addresses, and the engines that can or cannot answer them."""

import math

import pytest

from pipeline.errors import RayrieverError
from pipeline.llm.engines import api, vllm_actors
from pipeline.llm.engines.endpoint import addresses, chat_parameters
from pipeline.llm.requests import Sampling, in_order, request_id
from pipeline.recipe import LlmSection
from tests.asked import build

RANKED = Sampling(0, 1, choices=("A", "B", "C"), ranks_choices=True)
MESSAGES = [{"role": "user", "content": "Which?"}]


def test_request_for_an_order_has_an_address_of_its_own_and_others_keep_theirs():
    """Held to the same choices, one is answered with a letter and the other with all of them."""
    chosen = Sampling(0, 1, choices=("A", "B", "C"))
    assert request_id("m", MESSAGES, RANKED) != request_id("m", MESSAGES, chosen)
    assert "ranks_choices" not in chosen.to_json() + str(chosen.address())
    assert Sampling.from_json(RANKED.to_json()) == RANKED and Sampling.from_json(chosen.to_json()) == chosen


def test_equal_likelihoods_keep_the_order_given():
    assert in_order(("A", "B", "C"), [0.1, 0.5, 0.5]) == "B > C > A"
    assert in_order(("A", "B"), [-math.inf, -math.inf]) == "A > B"


def row(logprobs: object, sampling: Sampling = RANKED) -> dict[str, object]:
    """What ray.data.llm gives back of one request."""
    (request,) = build("m", "setwise", [MESSAGES], sampling).rename_columns(list(vllm_actors._CARRIED)).to_pylist()
    generated = {"generated_text": "B", "num_input_tokens": 5, "num_generated_tokens": 1, "logprobs": logprobs}
    return {**request, **generated, "__inference_error__": ""}


def likely(**tokens: float) -> list[dict[int, dict[str, object]]]:
    listed = enumerate(tokens.items())
    return [{n: {"logprob": value, "rank": n + 1, "decoded_token": token} for n, (token, value) in listed}]


def test_vllm_is_asked_for_likelihoods_and_held_to_the_choices():
    asked = vllm_actors._conversation(row(None), lora=None)["sampling_params"]
    assert asked["logprobs"] == 20 and asked["structured_outputs"] == {"choice": ["A", "B", "C"]}
    assert "logprobs" not in vllm_actors._conversation(row(None, Sampling(0, 1)), lora=None)["sampling_params"]


@pytest.mark.parametrize(
    ("logprobs", "text"),
    [
        (likely(B=-0.1, C=-3.0, A=-4.0), "B > C > A"),
        (likely(The=-0.1, C=-3.0, A=-4.0, b=-1.0), "C > A > B"),
        (likely(**{" C": -1.0, "C": -5.0, "A": -2.0, "#": -math.inf, "B": -math.inf}), "C > A > B"),
    ],
)
def test_likelihoods_of_vllm_become_an_order(logprobs: object, text: str):
    answer = vllm_actors._answer(row(logprobs))
    assert (answer.text, answer.finish_reason, answer.tokens_out) == (text, "stop", 1)


@pytest.mark.parametrize("logprobs", [None, [], likely(The=-0.1), likely(A=-math.inf, B=-math.inf)])
def test_answer_without_likelihoods_is_an_error_and_no_order(logprobs: object):
    """Taken for equal ones, they would be the order shown, whatever the model thinks."""
    answer = vllm_actors._answer(row(logprobs))
    assert answer.finish_reason == "error" and "no likelihood of any of the choices A, B, C" in str(answer.error)


def test_token_that_begins_two_choices_is_an_error():
    sampling = Sampling(0, 1, choices=("yes", "yet"), ranks_choices=True)
    assert "begins two of the choices yes, yet with 'ye'" in str(
        vllm_actors._answer(row(likely(ye=-1.0), sampling)).error
    )


@pytest.mark.parametrize("engine", ["openai", "batch"])
def test_servers_refuse_in_words_of_the_recipe(engine: str):
    section = LlmSection(engine=engine, model="m", base_url="http://none/v1")
    requests = build("m", "setwise", [MESSAGES], RANKED)
    with pytest.raises(RayrieverError, match=rf"permutations.method setwise: engine '{engine}' gives no likelihoods"):
        chat_parameters(requests.to_pylist()[0], section, addresses(section)[0])
    with pytest.raises(RayrieverError, match=r"permutations.method"):
        api.blocks(requests, requests, section, 0)
