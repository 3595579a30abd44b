"""Files of requests as batches of the OpenAI Batch API: upload, wait, fetch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from pipeline.errors import RayrieverError
from pipeline.llm.engines.batch_files import Folder
from pipeline.llm.engines.endpoint import Address
from pipeline.llm.engines.endpoint import check as check_endpoint

CHAT_ROUTE = "/v1/chat/completions"
_WINDOW = "24h"  # the only one there is
_NAME = "rayriever_file"  # in a batch's metadata: which file of requests it is
_FINAL = {"completed", "expired", "cancelled", "failed"}
_TOO_MANY_TOKENS = "token_limit_exceeded"  # in all batches of the account together
_RETRIES = 10  # of a look, some minutes: a day's wait must not end with the first lost connection


class Records:
    """As which batch each file of requests was submitted."""

    def __init__(self, batches: Folder, done: Folder) -> None:
        self._batches, self._done = batches, done

    def batch(self, file: str) -> str | None:
        """Id of the batch of a file that is not finished; None where none is known."""
        content = self._batches.read(_record(file))
        return None if content is None else str(json.loads(content)["batch"])

    def keep(self, file: str, batch_id: str) -> None:
        self._batches.write(_record(file), json.dumps({"batch": batch_id}).encode())

    def finish(self, file: str) -> None:
        """Let the file be submitted anew, should it be written again; its batch is not taken for that one's."""
        batch_id = self.batch(file)
        if batch_id is not None:
            self._batches.move(_record(file), self._done, f"{batch_id}.json")

    def finished(self) -> set[str]:
        """Ids of batches that are done with."""
        return {name.removesuffix(".json") for name in self._done.names(".json")}


def _record(file: str) -> str:
    return file.removesuffix(".jsonl") + ".json"


class BatchApi:
    """One server that takes batches."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def check(self) -> None:
        """Raise RayrieverError when the key is missing or refused, or no server is there."""
        check_endpoint(self._address)

    def finished(
        self,
        files: Collection[str],
        requests: Folder,
        records: Records,
        results: Folder,
        poll_s: float,
        say: Callable[[str], None],
    ) -> Iterator[tuple[str, str]]:
        """Submit the files that are not yet, wait, and write results.

        Yields the name of each file whose batch has ended, and what is to be said of requests without a result.
        Where the account may not have so many tokens in batches at once, files wait for others to end.

        Raises RayrieverError when the API refuses a file; what was submitted goes on there, and a later run finds it.
        """
        import openai

        with openai.OpenAI(api_key=self._address.key(), base_url=self._address.url, max_retries=_RETRIES) as client:
            try:
                running = _submitted(client, files, records)
                queue = [name for name in files if name not in running]
                ready = len(queue)  # so many of the queue may be tried now
                while queue or running:
                    ready = ready if running else max(ready, 1)
                    tried, queue = queue[:ready], queue[ready:]
                    alone = set(tried) if not running and len(tried) == 1 else set()
                    for name in tried:
                        running[name] = _submit(client, name, requests, records)
                        say(f"{name} submitted as {running[name]}")
                    ready = 0
                    for name, batch_id in list(running.items()):
                        batch = client.batches.retrieve(batch_id)
                        if batch.status not in _FINAL:
                            continue
                        del running[name]
                        if name not in alone and _has_too_many_tokens(batch):
                            records.finish(name)
                            queue.append(name)
                            continue
                        _fetch(client, batch, name, records, results)
                        yield name, f"batch {batch_id} is {batch.status}, without a result for this request"
                        ready += 1
                    if running:
                        queued = f", {len(queue):,} wait for one to end" if queue else ""
                        say(f"{len(running):,} batches are not finished{queued}")
                        time.sleep(poll_s)
            except openai.APIError as error:
                raise RayrieverError(
                    f"llm: batches at {self._address.url}: {type(error).__name__}: {error}. What was submitted goes on "
                    "there; the same command finds it again."
                ) from error


def _submitted(client: Any, files: Collection[str], records: Records) -> dict[str, str]:
    """File of requests -> id of its batch, for those that have one.

    A batch whose record was lost, because the run that submitted it was killed, is known by its metadata.
    """
    found = {name: batch_id for name in files if (batch_id := records.batch(name)) is not None}
    unknown = set(files) - found.keys()
    if not unknown:
        return found
    finished = records.finished()
    for batch in client.batches.list(limit=100):  # the newest first
        name = (batch.metadata or {}).get(_NAME)
        is_lost = batch.status in ("failed", "cancelling", "cancelled")
        if name in unknown and name not in found and not is_lost and batch.id not in finished:
            records.keep(name, batch.id)
            found[name] = batch.id
    return found


def _submit(client: Any, name: str, requests: Folder, records: Records) -> str:
    """Upload a file; the id of its batch."""
    uploaded = client.files.create(file=(name, requests.read(name) or b""), purpose="batch")
    batch = client.batches.create(
        input_file_id=uploaded.id, endpoint=CHAT_ROUTE, completion_window=_WINDOW, metadata={_NAME: name}
    )
    records.keep(name, batch.id)
    return str(batch.id)


def _has_too_many_tokens(batch: Any) -> bool:
    return any(error.code == _TOO_MANY_TOKENS for error in (batch.errors and batch.errors.data) or [])


def _fetch(client: Any, batch: Any, name: str, records: Records, results: Folder) -> None:
    """Write the answers and the errors of an ended batch."""
    files = {"answers": batch.output_file_id, "errors": batch.error_file_id}
    for kind, file_id in files.items():
        if file_id:
            content = client.files.content(file_id).content
            results.write(f"{name.removesuffix('.jsonl')}-{kind}.jsonl", content)
    if not any(files.values()):
        records.finish(name)
        reasons = "; ".join(str(error.message) for error in (batch.errors and batch.errors.data) or [])
        smaller = " Set llm.batch.requests_per_file lower." if _has_too_many_tokens(batch) else ""
        raise RayrieverError(
            f"llm: batch {batch.id} ({name}) is {batch.status} without results: {reasons or 'no reason given'}."
            f"{smaller} The same command submits it again."
        )
