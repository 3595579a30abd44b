"""Answers through files of the OpenAI Batch API: at half the price, or from any program that can answer a file.

    FOLDER/requests/NAME.jsonl    requests that wait for their results, as the API takes them
    FOLDER/results/*.jsonl        results, in any order, in files of any name, from wherever
    FOLDER/batches/NAME.json      id of the batch that a file of requests was submitted as
    FOLDER/failed/*.jsonl         requests that came back with an error, and which; they are not asked again
    FOLDER/done/                  files of requests and results that are finished with

A file of requests is finished when each of them has a result, an answer or an error. Everything is found again by the
next run of the same command, whatever became of this one. A stage asks several times and begins anew with every run:
without the files in failed/, one request that always fails would be written again by each of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from pipeline.errors import RayrieverError
from pipeline.llm.engines.batch_api import CHAT_ROUTE, BatchApi, record_of
from pipeline.llm.engines.batch_files import Folder
from pipeline.llm.engines.endpoint import NO_COMPLETION, chat_parameters, places, read_completion
from pipeline.llm.engines.gate import Gate
from pipeline.llm.engines.job import Job, expected_tokens
from pipeline.llm.responses import Answer, failure, to_table
from pipeline.llm.store import Ledger, ResponseStore
from pipeline.recipe import LlmSection
from pipeline.workspace import Workspace, digest

_MOST_REQUESTS, _MOST_BYTES = 50_000, 190_000_000  # of a file; the API takes 50,000 and 200 MB
_STORED_TOGETHER = 1000


def check(section: LlmSection) -> None:
    """Raise RayrieverError when the model is no served name or, where batches are submitted, the API is not there."""
    if section.model.startswith("pypi:"):
        raise RayrieverError(f"llm.model {section.model}: engine 'batch' needs the name by which the API knows it.")
    if section.batch.submit:
        BatchApi(places(section)[0]).check()


def answers(
    ids: Collection[str], missing: Iterable[pa.Table], job: Job, gate: Gate, say: Callable[[str], None]
) -> Generator[pa.Table]:
    """LLM_RESPONSE rows as results are found; requests that the gate keeps back have none.

    Args:
        ids: of the requests that have no answer yet.
        missing: their LLM_REQUEST rows, read once; a file of requests at a time is in memory.

    Raises RayrieverError when results are still to come: the next run goes on from the files.
    """
    box, wanted = Box(job), frozenset(ids)
    try:
        yield box.failures(wanted)
        yield from box.collect(wanted, say)
        box.write(missing, gate, say)
        if job.section.batch.submit:
            api = BatchApi(places(job.section)[0])
            for _ in api.finished(box.requests, box.batches, box.results, job.section.batch.poll_s, say):
                yield from box.collect(wanted, say)
    except GeneratorExit:  # more errors than the caller puts up with: the next run asks them again
        box.forget_failures(wanted)
        raise
    if waiting := len(wanted & box.waiting().keys()):
        raise RayrieverError(
            f"llm: {waiting:,} requests wait for their results. They are in {box.requests.uri}: have the files "
            f"answered (OpenAI Batch API, or any program), put the results into {box.results.uri}, and run the same "
            "command."
        )


class Box:
    """The folders of a call, and what of its requests has come back."""

    def __init__(self, job: Job) -> None:
        self._job = job
        uri = job.section.batch.folder
        root, within = (Workspace(uri), ()) if uri else (Workspace(job.workspace_uri), ("llm", "batches"))
        self.requests, self.results, self.batches, self._failed, self._done = (
            Folder(root, *within, name) for name in ("requests", "results", "batches", "failed", "done")
        )
        self._store, self._ledger = ResponseStore(Workspace(job.workspace_uri)), Ledger(Workspace(job.workspace_uri))
        self._returned: set[str] = set()  # ids whose result this call has had, or that are among the failures

    def waiting(self) -> dict[str, str]:
        """Id -> file, of the requests in files that are not finished with and have had no result in this call."""
        return {
            str(row["custom_id"]): name
            for name in self.requests.names(".jsonl")
            for row in self.requests.rows(name)
            if row is not None and row["custom_id"] not in self._returned
        }

    def failures(self, wanted: frozenset[str]) -> pa.Table:
        """LLM_RESPONSE rows of the wanted requests that came back with an error in an earlier call."""
        known = {row["custom_id"]: row["error"] for name in self._failed.names(".jsonl") for row in self._errors(name)}
        self._returned |= known.keys()
        return to_table(failure(request_id, known[request_id], 0) for request_id in wanted & known.keys())

    def forget_failures(self, wanted: frozenset[str]) -> None:
        """Let the wanted requests that came back with an error be asked again."""
        for name in self._failed.names(".jsonl"):
            rows = self._errors(name)
            others = [row for row in rows if row["custom_id"] not in wanted]
            if len(others) < len(rows):
                self._keep_errors(others)
                self._failed.remove(name)

    def _errors(self, name: str) -> list[dict[str, Any]]:
        return [row for row in self._failed.rows(name) if row is not None]

    def _keep_errors(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            self._failed.write(f"{digest({'errors': rows})}.jsonl", content)

    def collect(self, wanted: frozenset[str], say: Callable[[str], None]) -> Generator[pa.Table]:
        """Store the answers in result files; LLM_RESPONSE rows of the wanted requests; finished files go to done/."""
        waiting, counts = self.waiting(), Counter[str]()
        failures: dict[str, Answer] = {}
        touched: dict[str, set[str]] = {}  # result file -> files of requests it answers
        for name in (*self.results.names(".jsonl"), *self.results.names(".jsonl.gz")):
            touched[name] = set()
            for group in _grouped(self._read(name, waiting, touched[name], failures, counts)):
                yield self._stored(group, waiting, wanted)
        failed = [answer for request_id, answer in failures.items() if request_id not in self._returned]
        self._returned |= failures.keys()
        self._keep_errors([{"custom_id": answer.request_id, "error": answer.error} for answer in failed])
        counts["errors"] = len(failed)
        self._tidy(touched)
        if counts:
            say(", ".join(f"{count:,} {what}" for what, count in counts.items() if count))
        if failed:
            say(f"the errors are listed in {self._failed.uri}; remove that folder to have those requests asked again")
        # Last: too many of them, and this generator is closed.
        yield to_table(answer for answer in failed if answer.request_id in wanted)

    def _read(
        self,
        name: str,
        waiting: dict[str, str],
        touched: set[str],
        failures: dict[str, Answer],
        counts: Counter[str],
    ) -> Iterator[Answer]:
        """The answers of one result file; what else is there is noted in the arguments."""
        for row in self.results.rows(name):
            request_id = row.get("custom_id") if row is not None else None
            if row is None or not isinstance(request_id, str):
                counts[f"lines of {name} cannot be read"] += 1
            elif request_id not in waiting:
                counts[f"results of {name} are of no request that waits"] += 1
            else:
                touched.add(waiting[request_id])
                answer = _result(request_id, row)
                if answer.error is None:
                    counts["results"] += 1
                    yield answer
                else:
                    failures[request_id] = answer

    def _stored(self, answers: list[Answer], waiting: dict[str, str], wanted: frozenset[str]) -> pa.Table:
        purposes = pa.array([_purpose(waiting[answer.request_id]) for answer in answers], pa.string())
        self._store.add(to_table(answers), purposes, self._job.identity)
        self._returned |= {answer.request_id for answer in answers}
        return to_table(answer for answer in answers if answer.request_id in wanted)

    def _tidy(self, touched: dict[str, set[str]]) -> None:
        """Move the files of requests that all have results, and those of results that nobody waits for any more."""
        still_waiting = set(self.waiting().values())
        for name in self.requests.names(".jsonl"):
            if name not in still_waiting:
                self.requests.move(name, self._done)
                self.batches.remove(record_of(name))
        for name, files in touched.items():
            if files and not files & still_waiting:
                self.results.move(name, self._done)

    def write(self, missing: Iterable[pa.Table], gate: Gate, say: Callable[[str], None]) -> None:
        """New files for requests that are in none yet, as far as the gate admits them."""
        known = self.waiting().keys() | self._returned
        rows = (row for rows in missing for row in rows.to_pylist() if row["request_id"] not in known)
        written = 0
        for number, (purpose, lines) in enumerate(_files(_admitted(rows, gate), self._job.section)):
            content = "".join(lines.values()).encode()
            ids = list(lines)
            # Before the file is there: a request that may have gone out counts as sent.
            self._ledger.record(
                pa.array(ids, pa.string()), pa.array([purpose] * len(ids)), self._job.identity, self._job.run_id
            )
            self.requests.write(f"{purpose}-{digest({'ids': ids})}-{number:04d}.jsonl", content)
            written += len(lines)
        if written:
            say(f"{written:,} requests written to {self.requests.uri}")


def _admitted(rows: Iterable[dict[str, Any]], gate: Gate) -> Iterator[dict[str, Any]]:
    """The rows that come before the budget is reached."""
    for row in rows:
        if not gate.admit([expected_tokens(row["messages"], row["sampling"])]).count:
            return
        yield row


def _files(rows: Iterable[dict[str, Any]], section: LlmSection) -> Iterator[tuple[str, dict[str, str]]]:
    """Purpose, and lines by request id, of one file after another; each within the limits of the API."""
    place = places(section)[0]
    begun: dict[str, dict[str, str]] = {}  # by purpose
    sizes = Counter[str]()
    for row in rows:
        purpose, body = row["purpose"], chat_parameters(row, section, place)
        line = json.dumps({"custom_id": row["request_id"], "method": "POST", "url": CHAT_ROUTE, "body": body}) + "\n"
        lines = begun.setdefault(purpose, {})
        if lines and (len(lines) == _MOST_REQUESTS or sizes[purpose] + len(line) > _MOST_BYTES):
            yield purpose, lines
            lines = begun[purpose] = {}
            sizes[purpose] = 0
        sizes[purpose] += len(line)
        lines[row["request_id"]] = line
    yield from begun.items()


def _purpose(name: str) -> str:
    """Of the requests in a file, by its name."""
    return name.rsplit("-", 2)[0]


def _result(request_id: str, row: dict[str, Any]) -> Answer:
    """One line of a result file."""
    response = row.get("response") or {}
    if row.get("error") or not isinstance(response, dict) or response.get("status_code", 200) != 200:
        reason = row.get("error") or (response.get("body") if isinstance(response, dict) else response)
        return failure(request_id, json.dumps(reason), 1)
    try:
        return read_completion(request_id, response["body"])
    except NO_COMPLETION as error:
        return failure(request_id, f"not a chat completion: {type(error).__name__}: {error}", 1)


def _grouped(answers: Iterator[Answer]) -> Iterator[list[Answer]]:
    while group := list(islice(answers, _STORED_TOGETHER)):
        yield group
