"""What an LLM adds to a query before it is encoded: a passage that might answer it, or the questions it consists of.

Its vector is averaged with the query's (HyDE: Gao et al. 2023, section 3.2, equation 8); words are searched as sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.encoder.side import PASSAGE, QUERY, Side
from pipeline.llm import prompts
from pipeline.llm.engines.endpoint import NO_COMPLETION, addresses, chat_parameters, read_completion
from pipeline.llm.parsers import TEXTS
from pipeline.llm.requests import Request, model_identity
from pipeline.recipe import Recipe
from serving.errors import ApiError, bad_request

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_LOGGER = logging.getLogger("rayriever.serve")
# Of what the LLM writes
_WORDS = 80
_TOKENS = 3 * _WORDS
# Prompt, and as what its answer is encoded
_KINDS: dict[str, tuple[str, Side]] = {
    "passage": ("positive", PASSAGE),
    "questions": ("decomposition_numbered", QUERY),
}


@dataclass(frozen=True)
class Expanded:
    """What the LLM wrote for each query."""

    texts: Sequence[str]
    side: Side


class Expander:
    """Asks the LLM of the recipe. Raises RayrieverError where its prompt or key is missing."""

    def __init__(self, recipe: Recipe) -> None:
        self._section, self._kind = recipe.llm, recipe.serve.expansion
        if self._kind is None:
            return
        task, self._side = _KINDS[self._kind]
        self._prompt = prompts.load(task, self._section)
        self._address = addresses(self._section)[0]
        self._key = self._address.key()
        self._at_once = asyncio.Semaphore(self._section.concurrency)
        self._client: AsyncOpenAI | None = None

    async def expand(self, queries: Sequence[str]) -> Expanded:
        """One call per query.

        Raises ApiError: 400 where the recipe names no expansion, 502 where the LLM gives no text that can be used.
        """
        if self._kind is None:
            raise bad_request("expand: no LLM expands queries here; the recipe's serve.expansion is not set.", "expand")
        return Expanded(await asyncio.gather(*map(self._expanded, queries)), self._side)

    async def _expanded(self, query: str) -> str:
        import openai

        values = {name: value for name, value in (("query", query), ("words", _WORDS)) if name in self._prompt.values}
        sampling = self._prompt.sampling(0.0, _TOKENS)
        row = Request("expansion", self._prompt.messages(**values), sampling).row(model_identity(self._section))
        body = chat_parameters(row, self._section, self._address)
        try:
            async with self._at_once:
                completion = await self._connected().post("/chat/completions", body=body, cast_to=object)
            answer = read_completion(row["request_id"], completion)
        except (openai.OpenAIError, *NO_COMPLETION) as error:
            _LOGGER.warning("expansion of a query failed: %s", str(error).replace(self._key, "***"))
            raise _failed() from None
        text = TEXTS[self._prompt.about.parser](answer.text, answer.finish_reason)
        if text is None:
            _LOGGER.warning("expansion of a query failed: no usable text (%s)", answer.error or answer.finish_reason)
            raise _failed()
        return text

    def _connected(self) -> AsyncOpenAI:
        if self._client is None:
            from openai import AsyncOpenAI

            section = self._section
            self._client = AsyncOpenAI(
                api_key=self._key,
                base_url=self._address.url,
                timeout=section.timeout_s,
                max_retries=section.max_retries,
            )
        return self._client


def _failed() -> ApiError:
    return ApiError(
        502, "The LLM that expands queries gave no usable answer. Search without expand.", "expansion_failed"
    )
