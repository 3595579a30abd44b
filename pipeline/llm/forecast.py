"""What requests will cost before they are asked: tokens counted in a sample of them, or in answers there already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from pipeline.errors import RayrieverError
from pipeline.llm.engines.weights import chat_tokens, open_tokenizer
from pipeline.llm.requests import Messages, model_identity
from pipeline.llm.store import totals
from pipeline.models import locate
from pipeline.recipe import LlmSection, Recipe
from pipeline.workspace import Workspace

_ENOUGH = 20  # answers of a purpose whose mean says more than a count in a sample
_CHARACTERS_PER_TOKEN = 4
_TEMPLATE_TOKENS = 4  # that a chat template puts around a message, about
MOST_EXAMPLES = 32
# Ordinary prose, for texts that are not there yet.
_PROSE = (
    "The method was first described in a short report and has since been used in many places where nothing better was "
    "at hand. It takes two readings of the same quantity, one before and one after the change, and compares them with "
    "what would be expected if the change had no effect. Where the readings differ by more than the instrument itself "
    "explains, the change is recorded and a second observer repeats the work. "
)


@dataclass(frozen=True)
class Expected:
    """Requests of one purpose that a stage is going to send."""

    purpose: str
    count: int
    examples: Sequence[Messages]  # a few like them, at least one
    tokens_out: float  # of an answer, where none of this purpose is there yet


@dataclass(frozen=True)
class Forecast:
    """What a stage is going to ask, over all purposes."""

    requests: int
    tokens_in: int
    tokens_out: int
    basis: str  # how the tokens are known, in words


def prose(words: int) -> str:
    """A text of so many words, to stand for one that is not written yet."""
    vocabulary = _PROSE.split()
    return " ".join(vocabulary[number % len(vocabulary)] for number in range(words))


def forecast(recipe: Recipe, expected: Iterable[Expected]) -> Forecast:
    """Add up what the requests will take.

    Where the workspace holds answers of this model to such requests, their mean counts; otherwise prompts are counted
    in the model's own tokens, where its tokenizer is on this machine, and else at four characters to a token.
    """
    expected = [each for each in expected if each.count]
    if not expected:
        return Forecast(0, 0, 0, "")  # also where there is no model
    section = recipe.llm
    answered = _answered(Workspace(recipe.workspace), model_identity(section))
    count_tokens: Callable[[Messages], int] | None = None
    bases: dict[str, None] = {}
    requests = tokens_in = tokens_out = 0.0
    for each in expected:
        requests += each.count
        if each.purpose in answered:
            per_prompt, per_answer, number = answered[each.purpose]
            bases[f"tokens as in {number:,} answers to such prompts"] = None
        else:
            if count_tokens is None:
                count_tokens, basis = counter(section)
            per_prompt, per_answer = mean(map(count_tokens, each.examples[:MOST_EXAMPLES])), each.tokens_out
            bases[basis] = None
        tokens_in += each.count * per_prompt
        tokens_out += each.count * per_answer
    return Forecast(round(requests), round(tokens_in), round(tokens_out), "; ".join(bases))


def _answered(workspace: Workspace, model: str) -> Mapping[str, tuple[float, float, int]]:
    """Purpose -> mean tokens of prompt and answer, and number of answers, where there are enough that tell."""
    return {
        usage.purpose: (usage.tokens_in / usage.answered, usage.tokens_out / usage.answered, usage.answered)
        for usage in totals(workspace).of_model(model).usages
        if usage.answered >= _ENOUGH and usage.tokens_in
    }


def counter(section: LlmSection) -> tuple[Callable[[Messages], int], str]:
    """What counts the tokens of a prompt, and how, in words. Downloads nothing."""
    guess = "tokens guessed, four characters each"
    if section.engine not in ("transformers", "vllm"):
        return _guessed, guess
    try:
        tokenizer = open_tokenizer(locate(section.model), local_only=True)
        if not tokenizer.chat_template:
            return _guessed, f"{guess}: {section.model} has no chat template"
    except RayrieverError:
        raise
    except Exception:  # what transformers raises for a model that is not here differs by model
        return _guessed, f"{guess}: the tokenizer of {section.model} is not on this machine"

    def counted(messages: Messages) -> int:
        try:
            return len(chat_tokens(tokenizer, messages, section.chat_template))
        except Exception:  # a prompt that the template refuses will be a failed request, which says why
            return _guessed(messages)

    return counted, "tokens counted in sample prompts"


def _guessed(messages: Messages) -> int:
    return sum(_TEMPLATE_TOKENS + len(message["content"]) // _CHARACTERS_PER_TOKEN for message in messages)
