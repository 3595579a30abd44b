"""What a plan says of tokens: counted, not guessed, wherever that is possible."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.llm.engines.local import Prompt, load
from pipeline.llm.forecast import Expected, counter, forecast, prose
from pipeline.llm.requests import Messages, Sampling, model_identity
from pipeline.llm.responses import Answer, to_table
from pipeline.llm.store import ResponseStore
from pipeline.recipe import LlmSection, Recipe
from pipeline.workspace import Workspace
from tests.asked import build


def conversation(words: int) -> Messages:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prose(words)}]


def recipe(folder: Path, **llm: object) -> Recipe:
    return Recipe.model_validate({"workspace": str(folder), "corpus": {"path": str(folder)}, "llm": llm})


def test_tokens_are_those_that_the_model_will_read(tiny_llm: Path):
    section = LlmSection(model=str(tiny_llm), max_context_tokens=512, cpus_per_actor=1)
    count, basis = counter(section)
    asked = build("m", "p", [conversation(20)], Sampling(0, 8)).to_pylist()[0]
    read = load(section).prompt(asked)
    assert isinstance(read, Prompt)
    assert count(conversation(20)) == len(read.token_ids)
    assert basis == "tokens counted in sample prompts"


def test_model_that_is_not_here_is_guessed_and_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for section in (LlmSection(engine="openai", model="m"), LlmSection(model="someone/absent")):
        count, basis = counter(section)
        assert basis.startswith("tokens guessed, four characters each")
        assert count([{"role": "user", "content": "x" * 400}]) == pytest.approx(100, abs=8)


def test_answers_there_already_say_more_than_a_sample(tmp_path: Path, tiny_llm: Path):
    """A provider's own count, of prompts of this very kind; a model may write less than it is asked for."""
    plan = recipe(tmp_path, model=str(tiny_llm))
    expected = [
        Expected("question", 1000, [conversation(20)], 50.0),
        Expected("positive", 10, [conversation(20)], 50.0),
    ]
    before = forecast(plan, expected)
    assert before.requests == 1010 and before.tokens_out == 50_500
    answers = [Answer(str(number), "text", "stop", 300 + number, 7, 1) for number in range(20)]
    store = ResponseStore(Workspace(str(tmp_path)))
    store.add(to_table(answers), pa.array(["question"] * 20), model_identity(plan.llm))
    after = forecast(plan, expected)
    one = counter(plan.llm)[0](conversation(20))
    assert (after.tokens_in, after.tokens_out) == (309_500 + 10 * one, 7_500)
    assert after.basis == "tokens as in 20 answers to such prompts; tokens counted in sample prompts"
    other = forecast(recipe(tmp_path, engine="openai", model="another"), expected)
    assert other.tokens_out == 50_500, "answers of another model say nothing"


def test_prompt_that_cannot_be_counted_is_guessed(tiny_llm: Path):
    """The plan must not fail over what would be one failed request."""
    count, _ = counter(LlmSection(model=str(tiny_llm), chat_template={"tokenize": True}))
    assert count([{"role": "user", "content": "x" * 400}]) == pytest.approx(100, abs=8)


def test_nothing_expected_costs_nothing_and_needs_no_model(tmp_path: Path):
    """A recipe with recorded answers alone runs where no model is."""
    absent = recipe(tmp_path, model="pypi:not-there-at-all")
    nothing = forecast(absent, [Expected("verdict", 0, [conversation(5)], 2.0)])
    assert (nothing.requests, nothing.tokens_in, nothing.tokens_out, nothing.basis) == (0, 0, 0, "")
