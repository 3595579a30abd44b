"""Batch files: what is written, what is read back in any order, and an API that takes them."""

import json
import random
import re
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from pipeline.errors import RayrieverError
from pipeline.llm.complete import complete
from pipeline.llm.engines import batch
from pipeline.llm.engines.batch_files import Folder
from pipeline.llm.requests import Sampling
from pipeline.llm.store import ResponseStore, totals
from pipeline.progress import Silent
from pipeline.recipe import LlmSection, RaySection
from pipeline.records import LLM_RESPONSE
from pipeline.runner import run
from pipeline.workspace import Workspace
from tests.asked import build
from tests.small_run import Recorder, small_recipe, write_corpus, write_like_a_model

if TYPE_CHECKING:
    from tests.conftest import ChatServer

SECTION = {"engine": "batch", "model": "m", "base_url": "http://127.0.0.1:9/v1", "max_failed_share": 0.05}


class Heard(Silent):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def requests(count: int, purpose: str = "question") -> pa.Table:
    return build(
        "m", purpose, [[{"role": "user", "content": f"{purpose} {n}"}] for n in range(count)], Sampling(0.5, 9)
    )


def ask(rows: pa.Table, folder: Path, heard: Heard | None = None, **changes: object) -> pa.Table:
    section = LlmSection.model_validate(SECTION | changes)
    answers = complete([rows], section, Workspace(str(folder)), RaySection(), heard or Heard(), "asked")
    return pa.Table.from_pylist(list(answers), schema=LLM_RESPONSE)


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    files = sorted((folder / "llm" / "batches" / kind).glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def result(request: dict[str, Any]) -> dict[str, Any]:
    """As the API writes it."""
    text = f"answer to {request['body']['messages'][-1]['content']}"
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}
    body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "b", "custom_id": request["custom_id"], "response": response, "error": None}


def answer(folder: Path, results: list[dict[str, Any] | str], name: str = "back") -> None:
    target = folder / "llm" / "batches" / "results"
    target.mkdir(parents=True, exist_ok=True)
    content = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in results)
    (target / f"{name}.jsonl").write_text(content + "\n")


def test_shuffled_results_with_errors_are_the_answers_of_their_requests(tmp_path: Path):
    rows = pa.concat_tables([requests(1900), requests(100, "verdict")])
    with pytest.raises(RayrieverError, match=r"2,000 requests wait for their results(.|\n)*results"):
        ask(rows, tmp_path)
    asked = lines(tmp_path, "requests")
    assert len(asked) == 2000 and {each["url"] for each in asked} == {"/v1/chat/completions"}
    body = {"model": "m", "messages": [{"role": "user", "content": "question 0"}], "temperature": 0.5, "max_tokens": 9}
    assert [each["body"] for each in asked if each["body"]["messages"] == body["messages"]] == [body]
    with pytest.raises(RayrieverError, match="2,000 requests wait"):
        ask(rows, tmp_path)
    assert len(lines(tmp_path, "requests")) == 2000, "asked again, they would be paid for twice"

    chance = random.Random(0)
    chance.shuffle(asked)
    results = [result(each) for each in asked]
    broken = {each["custom_id"] for each in chance.sample(asked, 20)}
    for each in results:
        if each["custom_id"] in broken:
            each |= {"response": {"status_code": 500, "body": {"error": {"message": "overloaded"}}}}
    answer(tmp_path, results[:1000], "one")
    answer(tmp_path, results[1000:], "two")
    heard = Heard()
    found = ask(rows, tmp_path, heard)
    assert found["request_id"].equals(rows["request_id"])
    contents = [json.loads(each)[-1]["content"] for each in rows["messages"].to_pylist()]
    for content, row in zip(contents, found.to_pylist(), strict=True):
        assert row["text"] == ("" if row["request_id"] in broken else f"answer to {content}")
    assert {row["error"] is not None for row in found.to_pylist() if row["request_id"] in broken} == {True}
    assert any("1,980 results, 20 errors" in text for text in heard.messages)
    counted = totals(Workspace(str(tmp_path)))
    assert (counted.sent, counted.answered, counted.tokens_cached) == (2000, 1980, 3960)
    assert {use.purpose for use in counted.usages} == {"question", "verdict"}
    assert not lines(tmp_path, "requests") and len(lines(tmp_path, "done")) == 4000

    again = ask(rows, tmp_path)
    assert again["text"].equals(found["text"]) and not lines(tmp_path, "requests"), "a stage that begins anew goes on"
    (kept,) = (tmp_path / "llm" / "batches" / "failed").iterdir()
    kept.unlink()
    with pytest.raises(RayrieverError, match="20 requests wait"):
        ask(rows, tmp_path)
    assert {each["custom_id"] for each in lines(tmp_path, "requests")} == broken, "only what failed is asked again"


def test_results_that_come_in_parts_are_kept_and_the_rest_waited_for(tmp_path: Path):
    rows = requests(10)
    with pytest.raises(RayrieverError):
        ask(rows, tmp_path)
    asked = lines(tmp_path, "requests")
    answer(tmp_path, [result(each) for each in asked[:4]], "first")
    with pytest.raises(RayrieverError, match="6 requests wait"):
        ask(rows, tmp_path)
    answer(tmp_path, ["no json", '{"custom_id": "stranger"}', *map(result, asked[4:])], "second")
    heard = Heard()
    assert ask(rows, tmp_path, heard)["error"].null_count == 10
    said = " ".join(heard.messages)
    assert "1 lines of second.jsonl cannot be read" in said and "1 results of second.jsonl are of no request" in said


def test_more_errors_than_allowed_stop_the_stage_and_are_asked_again(tmp_path: Path):
    rows = requests(10)
    with pytest.raises(RayrieverError):
        ask(rows, tmp_path)
    asked = lines(tmp_path, "requests")
    bad = [{"custom_id": each["custom_id"], "error": {"code": "batch_expired"}} for each in asked[:4]]
    answer(tmp_path, [*bad, *map(result, asked[4:])])
    with pytest.raises(RayrieverError, match=r"4 of 10 requests(.|\n)*batch_expired(.|\n)*6 answers are stored"):
        ask(rows, tmp_path)
    with pytest.raises(RayrieverError, match="4 requests wait"):
        ask(rows, tmp_path)
    assert {each["custom_id"] for each in lines(tmp_path, "requests")} == {each["custom_id"] for each in bad}


def test_files_stay_within_the_limits_of_the_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch, "_MOST_BYTES", 6000)
    with pytest.raises(RayrieverError):
        ask(requests(150), tmp_path, batch={"requests_per_file": 40})
    files = list((tmp_path / "llm" / "batches" / "requests").glob("*.jsonl"))
    assert all(file.stat().st_size <= 6000 for file in files)
    assert all(len(file.read_text().splitlines()) <= 40 for file in files)
    assert len({each["custom_id"] for each in lines(tmp_path, "requests")}) == 150


def test_tokens_that_wait_for_results_count_against_the_budget(tmp_path: Path):
    """A batch cannot be stopped once answers tell what they took: 20 dollars must not buy files worth 2,000."""
    limit = {"budget": {"max_tokens": 200}}
    with pytest.raises(RayrieverError, match=r"(\d+) requests wait"):
        ask(requests(100), tmp_path, **limit)
    written = len(lines(tmp_path, "requests"))
    longest = 9 + len(json.dumps([{"role": "user", "content": "question 10"}])) // 4
    assert 200 / longest - 1 <= written <= 200 / longest + 2
    with pytest.raises(RayrieverError, match=f"{written} requests wait"):
        ask(requests(100), tmp_path, **limit)
    assert len(lines(tmp_path, "requests")) == written, "what waits was forgotten"
    price = {"price": {"input": 0, "output": 1e6}, "budget": {"max_cost": 9 * (written + 3)}}
    with pytest.raises(RayrieverError, match=f"{written + 3} requests wait"):
        ask(requests(100), tmp_path, **price)
    answer(tmp_path, list(map(result, lines(tmp_path, "requests"))))
    with pytest.raises(RayrieverError, match=r"over budget: 203 tokens used; llm.budget.max_tokens is 200"):
        for _ in range(20):
            try:
                ask(requests(100), tmp_path, **limit)
            except RayrieverError as error:
                if "wait for their results" not in str(error):
                    raise
                answer(tmp_path, list(map(result, lines(tmp_path, "requests"))))


def test_files_of_other_workspaces_in_one_folder_are_let_alone(tmp_path: Path):
    """Taken by the first that looks, the other's answers would be paid for again."""
    shared = {"batch": {"folder": str(tmp_path / "llm" / "batches")}}
    for name in ("one", "two"):
        with pytest.raises(RayrieverError, match="5 requests wait"):
            ask(requests(5, name), tmp_path / name, **shared)
    answer(tmp_path, list(map(result, lines(tmp_path, "requests"))))
    for name in ("one", "two"):
        assert ask(requests(5, name), tmp_path / name, **shared)["error"].null_count == 5
        assert totals(Workspace(str(tmp_path / name))).answered == 5
    assert not lines(tmp_path, "requests") and not lines(tmp_path, "results")


def test_file_that_another_run_has_moved_is_no_error(tmp_path: Path):
    """Two runs of one workspace find the same results, and both put away what is finished."""
    here, there = (Folder(Workspace(str(tmp_path)), name) for name in ("here", "there"))
    here.write("a.jsonl", b"{}")
    here.move("a.jsonl", there)
    here.move("a.jsonl", there)
    assert there.names(".jsonl") == ["a.jsonl"]
    with pytest.raises(OSError):
        here.move("b.jsonl", there)


def test_answer_that_comes_after_an_error_counts(tmp_path: Path):
    rows = requests(3)
    with pytest.raises(RayrieverError):
        ask(rows, tmp_path)
    first, second, third = lines(tmp_path, "requests")
    answer(tmp_path, [{"custom_id": first["custom_id"], "error": {"code": "x"}}, result(second)], "early")
    with pytest.raises(RayrieverError, match="1 requests wait"):
        ask(rows, tmp_path)
    with pytest.raises(RayrieverError, match="1 requests wait"):
        ask(rows, tmp_path)
    store = ResponseStore(Workspace(str(tmp_path)))
    assert sum(found.num_rows for found in store.scan(["request_id"])) == 1, "one answer is stored by every run"
    answer(tmp_path, [result(third), result(first)], "late")
    assert ask(rows, tmp_path)["error"].null_count == 3
    assert not lines(tmp_path, "failed")


def test_budget_keeps_requests_out_of_the_files(tmp_path: Path):
    with pytest.raises(RayrieverError, match="30 requests wait"):
        ask(requests(100), tmp_path, budget={"max_requests": 30}, requests_per_minute=60)
    answer(tmp_path, list(map(result, lines(tmp_path, "requests"))))
    with pytest.raises(RayrieverError, match=r"over budget: 30 requests sent(.|\n)*70 of 100 requests"):
        ask(requests(100), tmp_path, budget={"max_requests": 30})
    assert totals(Workspace(str(tmp_path))).answered == 30


def test_batch_files_lead_to_the_artifacts_of_a_live_run(
    tmp_path: Path,
    tiny_encoder: Path,
    chat_server: "ChatServer",
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
):
    """The same answers and the same failures, whichever way they came and in whatever order."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    chat_server.reply = _write_or_fail
    write_corpus(tmp_path / "live")
    write_corpus(tmp_path / "files")
    kept = {"max_failed_share": 0.5}
    live = run(small_recipe(tmp_path / "live", tiny_encoder, chat_server.url, llm=kept), Recorder(), until="synthesis")
    recipe = small_recipe(tmp_path / "files", tiny_encoder, "http://127.0.0.1:9/v1", llm={"engine": "batch", **kept})
    found, listener, chance = {}, Recorder(), random.Random(0)
    for _ in range(10):
        try:
            found = run(recipe, listener, until="synthesis")
            break
        except RayrieverError as error:
            assert "wait for their results" in str(error)
            results = [_as_a_live_server(each) for each in lines(tmp_path / "files" / "workspace", "requests")]
            chance.shuffle(results)
            answer(tmp_path / "files" / "workspace", results)
    assert any(re.search(r"[1-9]\d* results, [1-9]\d* errors", text) for text in listener.messages)
    for stage in ("queries", "synthesis"):
        for table in live[stage].manifest.tables:
            assert found[stage].table(table).equals(live[stage].table(table)), (stage, table)
        assert found[stage].manifest.outcomes == live[stage].manifest.outcomes


def _write_or_fail(content: str, attempt: int) -> dict[str, Any]:
    return {"status": 500} if zlib.crc32(content.encode()) % 20 == 7 else write_like_a_model(content, attempt)


def _as_a_live_server(request: dict[str, Any]) -> dict[str, Any]:
    reply = _write_or_fail(request["body"]["messages"][-1]["content"], 1)
    body = json.loads(reply.get("body", "{}"))
    return {"custom_id": request["custom_id"], "response": {"status_code": reply.get("status", 200), "body": body}}


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
