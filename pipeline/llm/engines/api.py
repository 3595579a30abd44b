"""Answers from a server that speaks OpenAI's chat completions: a hosted API, vLLM, llama.cpp, Ollama and the like.

Retries are the `openai` client's: it knows which failures pass and waits as long as the server's Retry-After says.
The key is read from the environment where it is used; it is in no argument, error or log.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import RayrieverError
from pipeline.llm.engines.admission import Admission, GroupCommit
from pipeline.llm.engines.job import Job, Recorder
from pipeline.llm.requests import Sampling
from pipeline.llm.responses import Answer, failure, to_table
from pipeline.recipe import LlmSection
from pipeline.records import LLM_REQUEST

if TYPE_CHECKING:
    from openai import APIError
    from ray.data import Dataset

_OPENAI_URL = "https://api.openai.com/v1"
_COMMIT_S = 0.05  # answers that a kill can lose are those of this long
_REACH_S = 10.0  # seconds a server may take to say that it is there
_CALLS = 8  # Ray Data calls that overlap in an actor, so that a slow request does not hold up those behind it
_CPUS = 0.5  # of one actor: it waits most of the time


def check(section: LlmSection) -> None:
    """Raise RayrieverError when the model is not a served name, a key is missing or refused, or no server is there."""
    import openai

    if section.model.startswith("pypi:"):
        raise RayrieverError(
            f"llm.model {section.model}: engine 'openai' needs the name under which the server offers it."
        )
    url = section.base_url or _OPENAI_URL
    try:
        with openai.OpenAI(api_key=_key(section), base_url=url, timeout=_REACH_S, max_retries=0) as client:
            client.models.list()
    except openai.AuthenticationError as error:
        raise RayrieverError(
            f"llm: {url} refuses the key ({error.status_code}). Set {section.api_key_env} to a valid one."
        ) from error
    except openai.APIConnectionError as error:
        raise RayrieverError(
            f"LLM server {url} cannot be reached: {error.__cause__ or error} Start it, or mend llm.base_url."
        ) from error
    except openai.APIError:
        return  # it is there; many servers do not list their models


def cpus(section: LlmSection) -> float:
    """CPUs of one actor."""
    return min(section.cpus_per_actor, _CPUS)


def batches(requests: pa.Table, wanted: pa.Table, section: LlmSection) -> list[pa.Table]:
    """Blocks small enough that all of an actor's calls together hold twice what may be in flight."""
    size = max(1, 2 * section.concurrency // _CALLS)
    return [wanted.slice(start, size).combine_chunks() for start in range(0, wanted.num_rows, size)]


def answer(asked: Dataset, job: Job) -> Dataset:
    """LLM_RESPONSE rows for a dataset of LLM_REQUEST rows."""
    from ray.data import ActorPoolStrategy

    return asked.map_batches(
        ApiActor,
        fn_constructor_args=(job,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=job.section.actors, max_concurrent_calls_per_actor=_CALLS),
        num_cpus=cpus(job.section),
    )


def _key(section: LlmSection) -> str:
    key = os.environ.get(section.api_key_env, "")
    if not key and section.base_url is None:
        raise RayrieverError(
            f"llm: no API key. Set the environment variable {section.api_key_env}, or llm.base_url to a server without."
        )
    return key or "none"


class ApiActor:
    """Keeps `concurrency` requests in flight over all of its overlapping calls."""

    def __init__(self, job: Job) -> None:
        import openai

        section = job.section
        self._section, self._key = section, _key(section)
        self._client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=section.base_url or _OPENAI_URL,
            timeout=section.timeout_s,
            max_retries=section.max_retries,
        )
        self._recorder = Recorder(job)
        self._admission = Admission[dict[str, Any]](section.concurrency, self._sent)
        self._commits = GroupCommit[tuple[dict[str, Any], Answer]](_COMMIT_S, section.concurrency, self._received)

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        stored, batch = await asyncio.to_thread(self._recorder.split, batch)
        answers = await asyncio.gather(*(self._answer(row) for row in batch.to_pylist()))
        yield pa.concat_tables([stored, to_table(answers)])

    def _sent(self, requests: list[dict[str, Any]]) -> None:
        self._recorder.sent(pa.Table.from_pylist(requests, schema=LLM_REQUEST))

    def _received(self, exchanges: list[tuple[dict[str, Any], Answer]]) -> None:
        requests = pa.Table.from_pylist([request for request, _ in exchanges], schema=LLM_REQUEST)
        self._recorder.received(requests, to_table(answer for _, answer in exchanges))

    async def _answer(self, request: dict[str, Any]) -> Answer:
        await self._admission.enter(request)
        try:
            answer = await self._ask(request)
        finally:
            self._admission.leave()
        await self._commits.add((request, answer))
        return answer

    async def _ask(self, request: dict[str, Any]) -> Answer:
        import openai

        attempts = 1
        try:
            raw = await self._client.chat.completions.with_raw_response.create(**self._parameters(request))
            attempts = raw.retries_taken + 1
            return _read(request["request_id"], raw.parse(), attempts)
        except openai.APIError as error:
            attempts = max(attempts, _attempts(error))
            return failure(request["request_id"], self._reason(error), attempts)
        except (openai.OpenAIError, AttributeError, LookupError, TypeError, ValueError) as error:
            # a proxy's web page, or JSON that is no chat completion
            return failure(request["request_id"], f"not a chat completion: {self._reason(error)}", attempts)

    def _parameters(self, request: dict[str, Any]) -> dict[str, Any]:
        sampling = Sampling.from_json(request["sampling"])
        # OpenAI's newer models refuse `max_tokens`, other servers know nothing else
        limit = "max_tokens" if self._section.base_url else "max_completion_tokens"
        seed = {} if sampling.seed is None else {"seed": sampling.seed}
        return {
            "model": self._section.model,
            "messages": json.loads(request["messages"]),
            "temperature": sampling.temperature,
            limit: sampling.max_tokens,
            **seed,
        }

    def _reason(self, error: Exception) -> str:
        text = f"{type(error).__name__}: {error}"
        # some servers repeat the key that they refuse
        return text.replace(self._key, "***") if self._key != "none" else text


def _read(request_id: str, completion: Any, attempts: int) -> Answer:
    choice, usage = completion.choices[0], completion.usage
    return Answer(
        request_id=request_id,
        text=choice.message.content or "",
        finish_reason=str(choice.finish_reason or "stop"),
        tokens_in=usage.prompt_tokens if usage else 0,
        tokens_out=usage.completion_tokens if usage else 0,
        attempts=attempts,
    )


def _attempts(error: APIError) -> int:
    """How often a failed request went out; the client says it in a header of the last attempt only."""
    return int(error.request.headers.get("x-stainless-retry-count", "0")) + 1
