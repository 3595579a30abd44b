"""Engine `batch` with an API: files are submitted once, fetched, and submitted anew only where that is due."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RayrieverError
from tests.batch_files import Heard, ask, lines, requests, result


class BatchServer:
    """The routes of the Batch API: a batch is done at the third look; every tenth request of it fails."""

    error_every = 10
    most_enqueued = 10**6  # requests in batches at once
    drop_last = False  # a batch ends as cancelled, without a word of its last request

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: list[dict[str, Any]] = []
        self.looks = 0
        self.url = ""

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        made = {"id": f"batch-{len(self.batches)}", "object": "batch", "status": "in_progress", "created_at": 0}
        made |= {"endpoint": body["endpoint"], "completion_window": "24h", "input_file_id": body["input_file_id"]}
        made["metadata"] = body["metadata"]
        waiting = [*self.asked("in_progress"), *self.files[made["input_file_id"]].splitlines()]
        if len(waiting) > self.most_enqueued:
            error = {"code": "token_limit_exceeded", "message": "enqueued token limit reached"}
            made |= {"status": "failed", "errors": {"object": "list", "data": [error]}}
        self.batches.append(made)
        return made

    def asked(self, status: str) -> list[bytes]:
        """Lines of the files whose batches are at that point."""
        return [
            line
            for each in self.batches
            if each["status"] == status
            for line in self.files[each["input_file_id"]].splitlines()
        ]

    def look(self, batch_id: str) -> dict[str, Any]:
        (found,) = [each for each in self.batches if each["id"] == batch_id]
        self.looks += 1
        if self.looks >= 3 and found["status"] == "in_progress":
            asked = [json.loads(line) for line in self.files[found["input_file_id"]].splitlines()]
            asked = asked[:-1] if self.drop_last else asked
            good = [result(each) for number, each in enumerate(asked) if number % self.error_every]
            bad = [{"custom_id": each["custom_id"], "error": {"code": "x"}} for each in asked[:: self.error_every]]
            for kind, rows in (("output", good), ("error", bad)):
                self.files[f"{batch_id}-{kind}"] = "\n".join(map(json.dumps, rows)).encode()
                found[f"{kind}_file_id"] = f"{batch_id}-{kind}"
            found["status"] = "cancelled" if self.drop_last else "completed"
        return found


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    kept = BatchServer()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            return

        def do_GET(self) -> None:
            *_, kind, last = self.path.split("?")[0].split("/")
            if last == "content":
                self._send(kept.files[kind])
            elif last in ("batches", "models"):
                rows = kept.batches[::-1] if last == "batches" else []
                self._send(json.dumps({"object": "list", "data": rows, "has_more": False}).encode())
            else:
                self._send(json.dumps(kept.look(last)).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("/files"):
                boundary = re.search(r"boundary=(.+)", self.headers["Content-Type"])
                assert boundary is not None
                (part,) = [p for p in body.split(f"--{boundary[1]}".encode()) if b"filename=" in p]
                file_id = f"file-{len(kept.files)}"
                kept.files[file_id] = part.split(b"\r\n\r\n", 1)[1].rstrip(b"\r\n")
                made = {"id": file_id, "object": "file", "bytes": 1, "created_at": 0, "filename": "f"}
                self._send(json.dumps(made | {"purpose": "batch", "status": "processed"}).encode())
            else:
                self._send(json.dumps(kept.create(json.loads(body))).encode())

        def _send(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield kept
    http.shutdown()
    http.server_close()


def test_submitted_batches_are_fetched_and_never_submitted_twice(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run killed between submitting a file and noting it down must find the batch by its metadata."""
    settings = {"base_url": server.url, "batch": {"submit": True, "poll_s": 0.05}, "max_failed_share": 0.2}
    folder = tmp_path / "llm" / "batches" / "batches"

    def killed(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.llm.engines.batch_api.time.sleep", killed)
    with pytest.raises(KeyboardInterrupt):
        ask(requests(50), tmp_path, **settings)
    assert len(server.batches) == 1 and len(list(folder.iterdir())) == 1
    next(folder.iterdir()).unlink()
    monkeypatch.undo()
    found = ask(requests(50), tmp_path, **settings)
    assert len(server.batches) == 1, "submitted twice, it is paid for twice"
    assert found["error"].null_count == 45
    assert not list(folder.iterdir()) and not lines(tmp_path, "requests")


def test_refused_file_is_an_error_that_says_why(server: BatchServer, tmp_path: Path):
    server.look = lambda batch_id: {  # type: ignore[method-assign]
        **server.batches[0],
        "status": "failed",
        "errors": {"object": "list", "data": [{"message": "model m does not exist"}]},
    }
    with pytest.raises(RayrieverError, match=r"is failed without results: model m does not exist"):
        ask(requests(5), tmp_path, base_url=server.url, batch={"submit": True})


def test_batch_of_which_every_request_failed_is_submitted_anew(server: BatchServer, tmp_path: Path):
    """The same requests make a file of the same name: the old batch, with its errors, must not pass for the new."""
    settings = {"base_url": server.url, "batch": {"submit": True, "poll_s": 0.01}}
    server.error_every = 1
    for _ in range(2):
        with pytest.raises(RayrieverError, match=r"requests have no answer|of 5 requests"):
            ask(requests(5), tmp_path, **settings)
    server.error_every = 10
    found = ask(requests(5), tmp_path, max_failed_share=0.5, **settings)
    assert found["error"].null_count == 4
    assert len(server.batches) == 3


def test_what_answers_leave_of_the_budget_is_spent_in_the_same_run(server: BatchServer, tmp_path: Path):
    settings = {"base_url": server.url, "batch": {"submit": True, "poll_s": 0.01}, "max_failed_share": 0.5}
    found = ask(requests(10), tmp_path, budget={"max_tokens": 100}, **settings)
    assert found["error"].null_count >= 7
    assert len(server.asked("completed")) == 10 and len(server.batches) > 1


def test_requests_of_which_an_ended_batch_says_nothing_have_failed(server: BatchServer, tmp_path: Path):
    """They would be waited for, for ever."""
    server.drop_last = True
    settings = {"base_url": server.url, "batch": {"submit": True, "poll_s": 0.01}, "max_failed_share": 0.5}
    found = ask(requests(10), tmp_path, **settings)
    assert found["error"].null_count == 8
    assert [each for each in found["error"].to_pylist() if each and "batch-0 is cancelled" in each]
    assert not lines(tmp_path, "requests") and not lines(tmp_path, "results")


def test_files_wait_where_the_account_may_not_have_them_all_at_once(server: BatchServer, tmp_path: Path):
    settings = {"base_url": server.url, "max_failed_share": 0.5}
    server.most_enqueued, files = 10, {"submit": True, "poll_s": 0.01, "requests_per_file": 5}
    heard = Heard()
    found = ask(requests(25), tmp_path, heard, batch=files, **settings)
    assert found["error"].null_count == 20
    assert len(server.asked("completed")) == 25, "each is paid for once"
    assert any("wait for one to end" in text for text in heard.messages)
    server.most_enqueued = 4
    with pytest.raises(RayrieverError, match=r"is failed without results(.|\n)*llm.batch.requests_per_file lower"):
        ask(requests(5, "other"), tmp_path, batch=files, **settings)
