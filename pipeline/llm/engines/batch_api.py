"""Files of requests as batches of the OpenAI Batch API: upload, wait, fetch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.errors import RayrieverError
from pipeline.llm.engines.batch_files import Folder
from pipeline.llm.engines.endpoint import Place
from pipeline.llm.engines.endpoint import check as check_endpoint

CHAT_ROUTE = "/v1/chat/completions"
_WINDOW = "24h"  # the only one there is
_NAME = "rayriever_file"  # in a batch's metadata: which file of requests it is
_FINAL = {"completed", "expired", "cancelled", "failed"}


def record_of(requests_file: str) -> str:
    """Name of the file that says as which batch a file of requests was submitted."""
    return requests_file.removesuffix(".jsonl") + ".json"


class BatchApi:
    """One server that takes batches."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def check(self) -> None:
        """Raise RayrieverError when the key is missing or refused, or no server is there."""
        check_endpoint(self._place)

    def finished(
        self, requests: Folder, batches: Folder, results: Folder, poll_s: float, say: Callable[[str], None]
    ) -> Iterator[str]:
        """Submit what is not yet, wait, and write results; yields the name of each file whose batch has ended.

        Raises RayrieverError when the API refuses a file; what was submitted goes on there, and a later run finds it.
        """
        import openai

        with openai.OpenAI(api_key=self._place.key(), base_url=self._place.url) as client:
            try:
                open_batches = self._submitted(client, requests, batches, say)
                while open_batches:
                    for name, batch_id in list(open_batches.items()):
                        batch = client.batches.retrieve(batch_id)
                        if batch.status in _FINAL:
                            del open_batches[name]
                            self._fetch(client, batch, name, batches, results)
                            yield name
                    if open_batches:
                        say(f"{len(open_batches):,} batches are not finished")
                        time.sleep(poll_s)
            except openai.APIError as error:
                raise RayrieverError(
                    f"llm: batches at {self._place.url}: {type(error).__name__}: {error}. What was submitted goes on "
                    "there; the same command finds it again."
                ) from error

    def _submitted(self, client: Any, requests: Folder, batches: Folder, say: Callable[[str], None]) -> dict[str, str]:
        """File of requests -> id of its batch, for every file; new ones are uploaded.

        A batch whose record was lost, because the run that submitted it was killed, is known by its metadata.
        """
        found = {}
        unknown = [name for name in requests.names(".jsonl") if batches.read(record_of(name)) is None]
        there = _by_file(client) if unknown else {}
        for name in requests.names(".jsonl"):
            record = batches.read(record_of(name))
            batch_id = json.loads(record)["batch"] if record is not None else there.get(name)
            if batch_id is None:
                content = requests.read(name) or b""
                uploaded = client.files.create(file=(name, content), purpose="batch")
                batch_id = client.batches.create(
                    input_file_id=uploaded.id, endpoint=CHAT_ROUTE, completion_window=_WINDOW, metadata={_NAME: name}
                ).id
                say(f"{name} submitted as {batch_id}")
            if record is None:
                batches.write(record_of(name), json.dumps({"batch": batch_id}).encode())
            found[name] = batch_id
        return found

    def _fetch(self, client: Any, batch: Any, name: str, batches: Folder, results: Folder) -> None:
        """Write the answers and the errors of an ended batch."""
        files = {"answers": batch.output_file_id, "errors": batch.error_file_id}
        for kind, file_id in files.items():
            if file_id:
                content = client.files.content(file_id).content
                results.write(f"{name.removesuffix('.jsonl')}-{kind}.jsonl", content)
        if not any(files.values()):
            batches.remove(record_of(name))
            reasons = "; ".join(str(error.message) for error in (batch.errors.data if batch.errors else None) or [])
            raise RayrieverError(
                f"llm: batch {batch.id} ({name}) is {batch.status} without results: {reasons or 'no reason given'}. "
                "The same command submits it again."
            )


def _by_file(client: Any) -> dict[str, str]:
    """File of requests -> id of the newest batch that was made of it and has not failed."""
    return {
        batch.metadata[_NAME]: batch.id
        for batch in reversed(list(client.batches.list(limit=100)))
        if batch.metadata and _NAME in batch.metadata and batch.status not in ("failed", "cancelled")
    }
