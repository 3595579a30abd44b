"""Answers from servers that speak OpenAI's chat completions: a hosted API, vLLM, llama.cpp, Ollama and the like."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import RayrieverError
from pipeline.llm.engines.admission import Admission, Closed, GroupCommit
from pipeline.llm.engines.endpoint import Attempt, Endpoint, places
from pipeline.llm.engines.endpoint import check as check_endpoint
from pipeline.llm.engines.gate import Admitted
from pipeline.llm.engines.job import Job, Recorder, expected_tokens
from pipeline.llm.responses import Answer, failure, to_table
from pipeline.recipe import LlmSection
from pipeline.records import LLM_REQUEST

if TYPE_CHECKING:
    from ray.data import Dataset
    from tenacity import RetryCallState

_COMMIT_S = 0.05  # answers that a kill can lose are those of this long
# Ray Data calls that overlap in an actor. A call ends with its slowest request, so that those which are tried again
# must not fill them all: together they hold eight times what may be in flight.
_CALLS = 32
_HELD = 8
_MOST_ROWS = 64  # of a call; where there are many requests, smaller ones would be a burden for Ray Data
_CPUS = 0.5  # of one actor: it waits most of the time
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 60.0  # before a further attempt, where the server does not say


def check(section: LlmSection) -> None:
    """Raise RayrieverError when the model is not a served name, a key is missing or refused, or no server is there."""
    if section.model.startswith("pypi:"):
        raise RayrieverError(
            f"llm.model {section.model}: engine 'openai' needs the name under which the server offers it."
        )
    for place in places(section):
        check_endpoint(place)


def cpus(section: LlmSection) -> float:
    """CPUs of one actor."""
    return min(section.cpus_per_actor, _CPUS)


def batches(requests: pa.Table, wanted: pa.Table, section: LlmSection) -> list[pa.Table]:
    """Blocks of such a size that all of an actor's calls together hold enough to send, and every actor its share."""
    enough = max(1, _HELD * section.concurrency * len(places(section)) // _CALLS)
    size = max(enough, min(_MOST_ROWS, wanted.num_rows // (2 * _CALLS * section.actors)))
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


class ApiActor:
    """Keeps as many requests in flight over all of its overlapping calls as the servers take."""

    def __init__(self, job: Job) -> None:
        section = self._section = job.section
        self._gate = job.gate
        endpoints = [Endpoint(place, section) for place in places(section)]
        self._by_lane = {id(endpoint.lane): endpoint for endpoint in endpoints}
        self._recorder = Recorder(job)
        lanes = [endpoint.lane for endpoint in endpoints]
        self._admission = Admission[dict[str, Any]](
            lanes, self._admit, self._sent, section.down_s, ahead=job.gate is None
        )
        self._commits = GroupCommit[tuple[dict[str, Any], Answer]](_COMMIT_S, section.concurrency, self._received)
        # Else every few seconds all requests wait while the collector goes through what the libraries have loaded.
        gc.collect()
        gc.freeze()

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        stored, batch = await asyncio.to_thread(self._recorder.split, batch)
        answers = await asyncio.gather(*(self._answer(row) for row in batch.to_pylist()))
        yield pa.concat_tables([stored, to_table(answers)])

    async def _admit(self, requests: list[dict[str, Any]]) -> Admitted:
        if self._gate is None:
            return Admitted(len(requests))
        tokens = [expected_tokens(request["messages"], request["sampling"]) for request in requests]
        admitted: Admitted = await self._gate.admit.remote(tokens)
        return admitted

    def _sent(self, requests: list[dict[str, Any]]) -> None:
        self._recorder.sent(pa.Table.from_pylist(requests, schema=LLM_REQUEST))

    def _received(self, exchanges: list[tuple[dict[str, Any], Answer]]) -> None:
        requests = pa.Table.from_pylist([request for request, _ in exchanges], schema=LLM_REQUEST)
        self._recorder.received(requests, to_table(answer for _, answer in exchanges))

    async def _answer(self, request: dict[str, Any]) -> Answer:
        """The request's answer or final error, stored."""
        from tenacity import AsyncRetrying, retry_if_result

        attempts, began = 0, math.inf

        async def ask() -> Attempt:
            nonlocal attempts, began
            lane = await self._admission.enter(request)
            began = min(began, time.monotonic())  # waiting for its first place is no fault of the request
            attempts += 1
            try:
                return await self._by_lane[id(lane)].ask(request)
            finally:
                self._admission.left()

        retrying = AsyncRetrying(
            stop=lambda _: attempts > self._section.max_retries or time.monotonic() - began >= self._section.deadline_s,
            wait=_wait_s,
            retry=retry_if_result(lambda attempt: attempt.passing),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        try:
            last: Attempt = await retrying(ask)
        except Closed as closed:
            return failure(request["request_id"], str(closed), attempts)
        answer = replace(last.answer, attempts=attempts)
        await self._commits.add((request, answer))
        return answer


def _wait_s(state: RetryCallState) -> float:
    """What the server asked for, else longer and longer and never quite the same."""
    from tenacity import wait_exponential_jitter

    attempt: Attempt | None = state.outcome.result() if state.outcome else None
    if attempt is not None and attempt.after_s is not None:
        return min(attempt.after_s, _LONGEST_WAIT_S)
    return wait_exponential_jitter(initial=_FIRST_WAIT_S, max=_LONGEST_WAIT_S, jitter=_FIRST_WAIT_S)(state)
