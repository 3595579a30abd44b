"""Answers through files of the OpenAI Batch API: at half the price, or from any program that can answer a file.

    FOLDER/requests/NAME.jsonl    requests that wait for their results, as the API takes them
    FOLDER/results/*.jsonl        results, in any order, in files of any name, from wherever
    FOLDER/batches/NAME.json      id of the batch that a file of requests was submitted as
    FOLDER/failed/*.jsonl         requests that came back with an error, and which; they are not asked again
    FOLDER/done/                  files of requests, results and batches that are finished with

A file of requests is finished when each of them has a result, an answer or an error. Everything is found again by the
next run of the same command, whatever became of this one. A stage asks several times and begins anew with every run:
without the files in failed/, one request that always fails would be written again by each of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Set
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from pipeline.digest import digest
from pipeline.errors import RayrieverError
from pipeline.llm.engines.batch_api import CHAT_ROUTE, BatchApi, Records
from pipeline.llm.engines.batch_files import Folder
from pipeline.llm.engines.endpoint import NO_COMPLETION, addresses, chat_parameters, read_completion
from pipeline.llm.engines.gate import Gate
from pipeline.llm.engines.job import Job, prompt_tokens
from pipeline.llm.requests import Sampling
from pipeline.llm.responses import Answer, failure, to_table
from pipeline.llm.store import Ledger, ResponseStore
from pipeline.recipe import LlmSection
from pipeline.workspace import Workspace

_MOST_BYTES = 190_000_000  # of a file; the API takes 200 MB
_STORED_TOGETHER = 1000


def check(section: LlmSection) -> None:
    """Raise RayrieverError when the model is no served name or, where batches are submitted, the API is not there."""
    if section.model.startswith("pypi:"):
        raise RayrieverError(f"llm.model {section.model}: engine 'batch' needs the name by which the API knows it.")
    if section.batch.submit:
        BatchApi(addresses(section)[0]).check()


def answers(
    ids: Collection[str], missing: Iterable[pa.Table], job: Job, gate: Gate, say: Callable[[str], None]
) -> Generator[pa.Table]:
    """LLM_RESPONSE rows as results are found; requests that the gate keeps back have none.

    Args:
        ids: of the requests that have no answer yet.
        missing: their LLM_REQUEST rows, read once; in memory is one file of requests for each purpose.

    Raises RayrieverError when results are still to come: the next run goes on from the files.
    """
    box = Box(job, frozenset(ids), missing, gate, say)
    try:
        yield from box.collect()
        box.write()
        if job.section.batch.submit:
            api = BatchApi(addresses(job.section)[0])
            while box.waiting():
                files, poll_s = box.open_files(), job.section.batch.poll_s
                for name, end in api.finished(files, box.requests, box.records, box.results, poll_s, say):
                    yield from box.collect()
                    yield box.give_up(name, end)
                box.write()  # answers may have left something of what they were expected to take of the budget
    except GeneratorExit:  # more errors than the caller puts up with: the next run asks them again
        box.forget_failures()
        raise
    if waiting := box.waiting():
        raise RayrieverError(
            f"llm: {waiting:,} requests wait for their results. They are in {box.requests.uri}: have the files "
            f"answered (OpenAI Batch API, or any program), put the results into {box.results.uri}, and run the same "
            "command."
        )


class Box:
    """The folders of a call, and what has become of the requests in them.

    Files that hold no request of this call or workspace are let alone: the folder may be shared, or the recipe changed.
    """

    def __init__(
        self, job: Job, wanted: frozenset[str], missing: Iterable[pa.Table], gate: Gate, say: Callable[[str], None]
    ) -> None:
        self._job, self._wanted, self._gate, self._say = job, wanted, gate, say
        uri = job.section.batch.folder
        root, within = (Workspace(uri), ()) if uri else (Workspace(job.workspace_uri), ("llm", "batches"))
        self.requests, self.results, batches, self._failed, self._done = (
            Folder(root, *within, name) for name in ("requests", "results", "batches", "failed", "done")
        )
        self.records = Records(batches, self._done)
        self._store, self._ledger = ResponseStore(Workspace(job.workspace_uri)), Ledger(Workspace(job.workspace_uri))
        self._errors = {
            row["custom_id"]: row["error"] for name in self._failed.names(".jsonl") for row in self._read_errors(name)
        }
        self._told: set[str] = set()  # failures that the caller knows of
        self._file_of: dict[str, str] = {}  # the requests in our files
        self._strange: set[str] = set()  # the requests in files of others
        self._open: dict[str, tuple[int, int]] = {}  # ours without a result, and tokens in and out that they may take
        self._answered: set[str] = set()  # in this call
        self._answers_to: dict[str, set[str]] = {}  # file of results -> files of requests; "" for those of others
        self._find()
        self._unwritten: Iterator[dict[str, Any]] = (
            row for rows in missing for row in rows.to_pylist() if self._is_new(row["request_id"])
        )

    def _find(self) -> None:
        asked = {
            name: {row["custom_id"]: _longest(row["body"]) for row in self.requests.rows(name) if row is not None}
            for name in self.requests.names(".jsonl")
        }
        everything = {request_id for tokens in asked.values() for request_id in tokens}
        answered = set[str]()
        for rows in self._store.scan(["request_id"]) if everything else ():
            answered |= everything.intersection(rows["request_id"].to_pylist())
        for name, tokens in asked.items():
            if tokens.keys() & (self._wanted | answered | self._errors.keys()):
                self._file_of |= dict.fromkeys(tokens, name)
                for request_id in tokens.keys() - answered - self._errors.keys():
                    self._expect(request_id, *tokens[request_id])
            else:
                self._strange |= tokens.keys()
        self._tidy()

    def _is_new(self, request_id: str) -> bool:
        return not any(request_id in known for known in (self._file_of, self._errors, self._answered))

    def _expect(self, request_id: str, tokens_in: int, tokens_out: int) -> None:
        self._open[request_id] = tokens_in, tokens_out
        self._gate.promise(tokens_in, tokens_out)

    def _settle(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            tokens_in, tokens_out = self._open.pop(request_id, (0, 0))
            self._gate.promise(-tokens_in, -tokens_out)

    def waiting(self) -> int:
        """How many of the wanted requests are in files and have had no result."""
        return len(self._wanted & self._open.keys())

    def open_files(self) -> list[str]:
        """The files of requests that are not finished."""
        return sorted({self._file_of[request_id] for request_id in self._open})

    def _failures(self) -> pa.Table:
        """LLM_RESPONSE rows of the wanted requests that came back with an error, now or in an earlier call; once."""
        news = (self._wanted & self._errors.keys()) - self._told
        self._told |= news
        return to_table(failure(request_id, self._errors[request_id], 1) for request_id in sorted(news))

    def forget_failures(self) -> None:
        """Let the wanted requests that came back with an error be asked again."""
        self._forget(self._wanted)

    def collect(self) -> Generator[pa.Table]:
        """LLM_RESPONSE rows of the wanted requests in result files. Answers are stored; finished files go to done/."""
        counts, failed, late = Counter[str](), dict[str, str](), set[str]()
        for name in (*self.results.names(".jsonl"), *self.results.names(".jsonl.gz")):
            for group in _grouped(self._read(name, failed, counts)):
                purposes = [_purpose(self._file_of[answer.request_id]) for answer in group]
                self._store.add(to_table(group), pa.array(purposes, pa.string()), self._job.identity)
                for answer in group:
                    self._gate.used(answer.tokens_in, answer.tokens_cached, answer.tokens_out)
                ids = {answer.request_id for answer in group}
                self._settle(ids)
                self._answered |= ids
                late |= ids & self._errors.keys()
                counts["results"] += len(ids)
                yield to_table(answer for answer in group if answer.request_id in self._wanted)
        self._forget(late)
        failed = {request_id: failed[request_id] for request_id in failed.keys() & self._open.keys()}
        counts["errors"] = len(failed)
        self._fail(failed)
        if counts.total():
            self._say(", ".join(f"{count:,} {what}" for what, count in counts.items() if count))
        if failed:
            self._say(
                f"the errors are listed in {self._failed.uri}; remove that folder to have those requests asked again"
            )
        yield self._failures()  # the last, for after too many of them the caller takes no more

    def give_up(self, name: str, reason: str) -> pa.Table:
        """LLM_RESPONSE rows of the wanted requests of a file that have had no result, and will have none."""
        self._fail({request_id: reason for request_id in self._open if self._file_of[request_id] == name})
        return self._failures()

    def _read(self, name: str, failed: dict[str, str], counts: Counter[str]) -> Iterator[Answer]:
        """The answers of one result file that are news; what else is there is noted in the arguments."""
        files = self._answers_to.setdefault(name, set())
        for row in self.results.rows(name):
            request_id = row.get("custom_id") if row is not None else None
            if row is None or not isinstance(request_id, str):
                counts[f"lines of {name} cannot be read"] += 1
            elif request_id in self._strange:
                files.add("")
            elif request_id not in self._file_of:
                counts[f"results of {name} are of no request that waits"] += 1
            else:
                files.add(self._file_of[request_id])
                if request_id in self._open or request_id in self._errors:
                    answer = _result(request_id, row)
                    if answer.error is None:
                        yield answer
                    else:
                        failed[request_id] = answer.error

    def _fail(self, errors: Mapping[str, str]) -> None:
        self._errors |= errors
        self._settle(errors)
        self._keep_errors([{"custom_id": request_id, "error": error} for request_id, error in errors.items()])
        self._tidy()

    def _forget(self, ids: Set[str]) -> None:
        if not ids & self._errors.keys():
            return
        for name in self._failed.names(".jsonl"):
            rows = self._read_errors(name)
            others = [row for row in rows if row["custom_id"] not in ids]
            if len(others) < len(rows):
                self._keep_errors(others)
                self._failed.remove(name)
        for request_id in ids:
            self._errors.pop(request_id, None)

    def _read_errors(self, name: str) -> list[dict[str, Any]]:
        return [row for row in self._failed.rows(name) if row is not None]

    def _keep_errors(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            self._failed.write(f"{digest({'errors': rows})}.jsonl", content)

    def _tidy(self) -> None:
        """Move the files of requests that all have results, and those of results that nobody waits for any more."""
        still_open = {"", *self.open_files()}
        for name in set(self._file_of.values()) - still_open:
            self.requests.move(name, self._done)
            self.records.finish(name)
        self._file_of = {request_id: name for request_id, name in self._file_of.items() if name in still_open}
        for name, files in list(self._answers_to.items()):
            if files and not files & still_open:
                self.results.move(name, self._done)
                del self._answers_to[name]

    def write(self) -> None:
        """New files for requests that are in none yet, as far as the gate admits them."""
        written = 0
        for number, (purpose, lines) in enumerate(_files(self._admitted(), self._job.section)):
            ids = list(lines)
            name = f"{purpose}-{digest({'ids': ids})}-{number:04d}.jsonl"
            self.requests.write(f"{name}.new", b"".join(lines.values()))
            # Before anybody takes the file: a request that may have gone out counts as sent.
            self._ledger.record(
                pa.array(ids, pa.string()), pa.array([purpose] * len(ids)), self._job.identity, self._job.run_id
            )
            self.requests.rename(f"{name}.new", name)
            self._file_of |= dict.fromkeys(ids, name)
            written += len(lines)
        if written:
            self._say(f"{written:,} requests written to {self.requests.uri}")

    def _admitted(self) -> Iterator[dict[str, Any]]:
        """LLM_REQUEST rows that come before the budget is reached, if each takes as many tokens as it may."""
        for row in self._unwritten:
            tokens = prompt_tokens(row["messages"]), Sampling.from_json(row["sampling"]).max_tokens
            if not self._gate.admit([sum(tokens)]).count:
                self._unwritten = chain([row], self._unwritten)
                return
            self._expect(row["request_id"], *tokens)
            yield row


def _longest(body: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens in and out that a written request may take."""
    tokens_out = body.get("max_tokens") or body.get("max_completion_tokens") or 0
    return prompt_tokens(json.dumps(body["messages"])), int(tokens_out)


def _files(rows: Iterable[dict[str, Any]], section: LlmSection) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Purpose, and lines by request id, of one file after another; each within the limits of the API."""
    address, most = addresses(section)[0], section.batch.requests_per_file
    begun: dict[str, dict[str, bytes]] = {}  # by purpose
    sizes = Counter[str]()
    for row in rows:
        purpose, body = row["purpose"], chat_parameters(row, section, address)
        request = {"custom_id": row["request_id"], "method": "POST", "url": CHAT_ROUTE, "body": body}
        line = json.dumps(request).encode() + b"\n"
        lines = begun.setdefault(purpose, {})
        if lines and (len(lines) == most or sizes[purpose] + len(line) > _MOST_BYTES):
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
