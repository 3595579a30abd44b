"""Answers from servers that speak OpenAI's chat completions: a hosted API, vLLM, llama.cpp, Ollama and the like."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RayrieverError
from pipeline.llm.engines.admission import Admission, Closed, GroupCommit
from pipeline.llm.engines.endpoint import Attempt, Endpoint, addresses, refuse_ranked_choices
from pipeline.llm.engines.endpoint import check as check_endpoint
from pipeline.llm.engines.gate import Admitted
from pipeline.llm.engines.job import Job, Recorder, expected_tokens
from pipeline.llm.requests import Sampling
from pipeline.llm.responses import Answer, failure, to_table
from pipeline.placement import Demand
from pipeline.recipe import LlmSection
from pipeline.records import LLM_REQUEST

if TYPE_CHECKING:
    from ray.data import Dataset

_COMMIT_S = 0.05  # answers that a kill can lose are those of this long
# Ray Data calls that overlap in an actor. A call ends with its slowest request, so that those which are tried again
# must not fill them all: together they hold eight times what may be in flight.
_CALLS = 32
_LEAST_CALLS = 4  # where blocks are large
_HELD = 8
_ROWS = 64  # of a call, where there are enough requests: smaller ones would be a burden for Ray Data
_CPUS = 0.5  # of one actor: it waits most of the time
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 60.0  # before a further attempt, where the server does not say
_LONGEST_ASKED_S = 300.0  # where it does
_MOST_ATTEMPTS = 100  # whatever became of them
_AT_ONCE = 2  # times that a request which is turned away just queues again; the lane sees to the server's rest


def check(section: LlmSection) -> None:
    """Raise RayrieverError when the model is not a served name, a key is missing or refused, or no server is there."""
    if section.model.startswith("pypi:"):
        raise RayrieverError(
            f"llm.model {section.model}: engine 'openai' needs the name under which the server offers it."
        )
    for address in addresses(section):
        check_endpoint(address)


def share(section: LlmSection) -> tuple[float, float]:
    """CPUs and GPUs of one actor."""
    return min(section.cpus_per_actor, _CPUS), 0.0


def release(job: Job) -> None:
    """Give back what a call's actors have reserved: nothing that they do not take with them."""


def blocks(requests: pa.Table, wanted: pa.Table, section: LlmSection, least: int) -> list[pa.Table]:
    """Blocks of such a size that all of an actor's calls together hold enough to send, and every actor its share.

    Raises RayrieverError as `refuse_ranked_choices` does.
    """
    for sampling in pc.unique(wanted["sampling"]).to_pylist():
        refuse_ranked_choices(Sampling.from_json(sampling), section)  # here, not as an actor's death
    size = max(least, 1, _held(section) // _CALLS, min(_ROWS, wanted.num_rows // (2 * _CALLS * section.actors)))
    return [wanted.slice(start, size).combine_chunks() for start in range(0, wanted.num_rows, size)]


def _held(section: LlmSection) -> int:
    """Requests that an actor's calls hold together, at least."""
    return _HELD * section.concurrency * len(addresses(section))


def answer(asked: Dataset, job: Job, demand: Demand) -> Dataset:
    """LLM_RESPONSE rows for a dataset of LLM_REQUEST rows; the demand is that of an actor."""
    from ray.data import ActorPoolStrategy

    rows = -(-asked.count() // asked.num_blocks())
    calls = min(_CALLS, max(_LEAST_CALLS, _CALLS * _ROWS // rows, -(-_held(job.section) // rows)))
    return asked.map_batches(
        ApiActor,
        fn_constructor_args=(job,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=job.section.actors, max_concurrent_calls_per_actor=calls),
        **demand.options(),
    )


class ApiActor:
    """Keeps as many requests in flight over all of its overlapping calls as the servers take."""

    def __init__(self, job: Job) -> None:
        section = self._section = job.section
        self._gate = job.gate
        endpoints = [Endpoint(address, section) for address in addresses(section)]
        self._by_lane = {id(endpoint.lane): endpoint for endpoint in endpoints}
        self._recorder = Recorder(job)
        lanes = [endpoint.lane for endpoint in endpoints]
        self._admission = Admission[dict[str, Any]](
            lanes, self._admit, self._sent, section.down_s, section.deadline_s, ahead=job.gate is None
        )
        self._commits = GroupCommit[tuple[dict[str, Any], Answer]](_COMMIT_S, section.concurrency, self._received)
        # Else every few seconds all requests wait while the collector goes through what the libraries have loaded.
        gc.collect()
        gc.freeze()

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        stored, batch = await asyncio.to_thread(self._recorder.split, batch, 1 + self._section.max_retries)
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
        attempts = failed = turned_away = 0
        began = math.inf
        while True:
            try:
                place = await self._admission.enter(request, again=attempts > 0)
            except Closed as closed:
                return failure(request["request_id"], str(closed), attempts)
            began = min(began, time.monotonic())  # waiting for its first place is no fault of the request
            try:
                attempt = await self._by_lane[id(place.lane)].ask(request, place)
            finally:
                self._admission.left()
            attempts += 1
            turned_away += attempt.turned_away
            failed += not attempt.turned_away
            late = time.monotonic() - began >= self._section.deadline_s
            enough = failed > self._section.max_retries or attempts >= _MOST_ATTEMPTS
            if not attempt.passing or enough or late:
                break
            await asyncio.sleep(_wait_s(attempt, turned_away - _AT_ONCE if attempt.turned_away else failed))
        answer = replace(attempt.answer, attempts=attempts)
        await self._commits.add((request, answer))
        return answer


def _wait_s(attempt: Attempt, times: int) -> float:
    """What the server asked for, else longer and longer and never quite the same."""
    if attempt.after_s is not None:
        return min(attempt.after_s, _LONGEST_ASKED_S)
    if times <= 0:
        return 0.0
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(times - 1, 16)) + random.uniform(0, _FIRST_WAIT_S)
