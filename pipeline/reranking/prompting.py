"""From a window of passages to a request, and from its answer to an order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any, Literal

from pipeline.errors import RayrieverError
from pipeline.llm.forecast import MOST_EXAMPLES, Expected
from pipeline.llm.parsers import RANKINGS
from pipeline.llm.parsers.permutation import LETTERS, Outcome
from pipeline.llm.parsers.thought import without_thought
from pipeline.llm.prompts import Prompt, load
from pipeline.llm.requests import Messages, Request, Sampling
from pipeline.recipe import LlmSection, PermutationsSection, Recipe
from pipeline.reranking.windows import windows

LISTWISE, AGAIN, SETWISE = "permutation", "permutation_again", "setwise"

_ANSWER_TOKENS = 8  # of "[12] > ", at most
_NUMBER = re.compile(r"\[\s*(\d+)\s*\]")
_TOKENS_PER_WORD = 1.4  # of English prose, rather many
_BYTES_PER_TOKEN = 4  # also where words are not divided by blanks
_QUOTED = 1000  # characters of an answer that is held against the LLM


def tasks_of(section: PermutationsSection) -> tuple[str, ...]:
    """The prompts that the method uses."""
    return {"listwise": (LISTWISE, AGAIN), "setwise": (SETWISE,), "fusion": ()}[section.method]


def shown_text(text: str, max_words: int) -> str:
    """A text as the LLM reads it: one line, not too long, and nothing in it that looks like a passage's number."""
    return _NUMBER.sub(r"(\1)", " ".join(text.split()[:max_words]))


@dataclass(frozen=True)
class Window:
    """What is put before the LLM: texts as `shown_text` makes them."""

    query: str
    passages: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """What an answer says."""

    answer: str | None  # None where there is none
    outcome: Outcome | Literal["error"]
    places: tuple[int, ...]  # of the passages shown, best first; empty where the answer is no ranking


@dataclass(frozen=True)
class Questions:
    """The recipe's way to ask."""

    section: PermutationsSection
    llm: LlmSection
    prompt: Prompt
    again: Prompt | None  # where an answer that cannot be read is asked for once more

    @classmethod
    def of(cls, recipe: Recipe) -> Questions:
        """Raises RayrieverError for a prompt file that does not fit, and an engine that cannot do what is asked."""
        section = recipe.permutations
        assert section is not None, "nobody asks without the section"
        if section.method == "setwise" and recipe.llm.engine not in ("transformers", "vllm"):
            raise RayrieverError(
                f"permutations.method setwise: engine {recipe.llm.engine!r} gives no likelihoods of letters. Use "
                "llm.engine transformers or vllm, or permutations.method listwise."
            )
        return cls.with_method(recipe.llm, section)

    @classmethod
    def with_method(cls, llm: LlmSection, section: PermutationsSection) -> Questions:
        """Whether or not the engine can do what is asked; raises RayrieverError for a prompt file that does not fit."""
        first, *others = (load(task, llm) for task in tasks_of(section))
        return cls(section, llm, first, others[0] if others else None)

    def spans(self, window: Window) -> list[tuple[int, int]]:
        """(start, end) of what is ranked at once, one after the other, of a whole list.

        All of it where the recipe names no window and the prompt fits into half of the context.
        """
        count, section = len(window.passages), self.section
        may_be_whole = count > 1 and section.method == "listwise" and section.window is None
        if may_be_whole and 2 * _tokens(self._messages(window)) <= self.llm.max_context_tokens:
            return [(0, count)]
        return windows(count, section.window_size, section.stride)

    def request(self, window: Window) -> Request:
        if self.section.method == "setwise":
            letters = tuple(LETTERS[: len(window.passages)])
            sampling = replace(self.prompt.sampling(), choices=letters, ranks_choices=True)
            return Request(SETWISE, self._messages(window), sampling)
        return Request(LISTWISE, self._messages(window), self._sampling(self.prompt, window))

    def second_request(self, window: Window, answer: str) -> Request:
        """The same request would be answered from the store at temperature 0: quote the answer and insist."""
        assert self.again is not None, "there is no second request for this method"
        said = (without_thought(answer) or "").strip()[:_QUOTED] or "(no answer)"
        insistence = self.again.messages(answer=said, count=len(window.passages))
        return Request(LISTWISE, [*self._messages(window), *insistence], self._sampling(self.again, window))

    def read(self, row: Mapping[str, Any], window: Window, again: bool = False) -> Reading:
        """What an LLM_RESPONSE row says of a window; an error's text is never read."""
        if row["error"]:
            return Reading(None, "error", ())
        prompt = self.again if again and self.again is not None else self.prompt
        found = RANKINGS[prompt.about.parser](row["text"], row["finish_reason"], len(window.passages))
        return Reading(row["text"], found.outcome, found.places)

    def insists(self, reading: Reading) -> bool:
        """Whether an answer is asked for once more."""
        return self.again is not None and not reading.places and reading.outcome != "error"

    def _messages(self, window: Window) -> list[dict[str, str]]:
        return self.prompt.messages(query=window.query, passages=window.passages)

    def _sampling(self, prompt: Prompt, window: Window) -> Sampling:
        about = self.prompt.about
        return prompt.sampling(about.temperature or 0, about.max_tokens or _ANSWER_TOKENS * len(window.passages))


def _tokens(messages: Messages) -> float:
    """Rather too many than too few, and known without a tokenizer: a server's is not here."""
    texts = [message["content"] for message in messages]
    words = _TOKENS_PER_WORD * sum(len(text.split()) for text in texts)
    return max(words, sum(len(text.encode()) for text in texts) / _BYTES_PER_TOKEN)


def expected(recipe: Recipe, lists: int, size: int, queries: Sequence[str], texts: Sequence[str]) -> Expected:
    """The requests about so many lists, second ones not counted, for `rayriever plan`.

    Args:
        size: passages of a list.
        queries, texts: a few like those there will be, at least one of each.
    """
    questions = Questions.of(recipe)
    shown = [shown_text(text, questions.section.max_words) for text in texts]
    passages, lists_like = cycle(shown), []
    for query in queries[:MOST_EXAMPLES]:
        lists_like.append(Window(query, tuple(islice(passages, size))))
    spans = questions.spans(lists_like[0])
    asked = [Window(each.query, each.passages[start:end]) for each in lists_like for start, end in spans]
    requests = [questions.request(each) for each in asked[:MOST_EXAMPLES]]
    tokens_out = 1.0 if questions.section.method == "setwise" else 5.0 * spans[0][1] - 5.0 * spans[0][0]
    count = lists * questions.section.passes * len(spans)
    return Expected(requests[0].purpose, count, [each.messages for each in requests], tokens_out)
