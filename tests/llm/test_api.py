"""The openai engine against a real HTTP server: what is asked, how often, and what becomes of failures."""

import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pyarrow as pa
import pytest

from pipeline.errors import RayrieverError
from pipeline.llm.complete import complete
from pipeline.llm.requests import Sampling, build
from pipeline.llm.store import totals
from pipeline.progress import Silent
from pipeline.recipe import LlmSection, RaySection
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from tests.conftest import ChatServer

pytestmark = pytest.mark.usefixtures("ray_cluster")


def section(server: "ChatServer", **changes: object) -> LlmSection:
    values = {
        "base_url": server.url,
        "timeout_s": 1.0,
        "max_retries": 2,
        "concurrency": 8,
        "cpus_per_actor": 0.5,
    }
    return LlmSection.model_validate({"engine": "openai", "model": "test-model", **values, **changes})


def requests(*contents: str) -> pa.Table:
    return build("test-model", "question", [[{"role": "user", "content": each}] for each in contents], Sampling(0.5, 9))


def ask(rows: pa.Table, settings: LlmSection, folder: Path) -> list[dict[str, object]]:
    return complete(rows, settings, Workspace(str(folder)), RaySection(), Silent(), "question").to_pylist()


def test_answers_come_in_request_order_and_equal_requests_are_asked_once(chat_server: "ChatServer", tmp_path: Path):
    contents = [f"topic {number}" for number in range(30)]
    delays = {content: 0.1 + 0.2 * (number % 3 == 0) for number, content in enumerate(contents)}
    chat_server.reply = lambda content, _: {"delay_s": delays[content]}
    rows = requests(*contents, "topic 0", "topic 7")
    answers = ask(rows, section(chat_server), tmp_path)
    assert [answer["text"] for answer in answers] == [f"answer to {c}" for c in [*contents, "topic 0", "topic 7"]]
    assert [answer["request_id"] for answer in answers] == rows["request_id"].to_pylist()
    assert answers[0] | {"request_id": ""} == {
        "request_id": "",
        "text": "answer to topic 0",
        "finish_reason": "stop",
        "tokens_in": 2,
        "tokens_out": 4,
        "attempts": 1,
        "error": None,
    }
    assert set(chat_server.asked.values()) == {1}
    assert 4 <= chat_server.most_in_flight <= 8
    assert chat_server.bodies[0]["max_tokens"] == 9 and chat_server.bodies[0]["temperature"] == 0.5
    assert (totals(Workspace(str(tmp_path))).sent, totals(Workspace(str(tmp_path))).answered) == (30, 30)


MISBEHAVIOUR = {
    "limited once": lambda attempt: {"status": 429, "retry_after": "0.1"} if attempt == 1 else {},
    "dropped once": lambda attempt: {"drop": attempt == 1},
    "hangs once": lambda attempt: {"delay_s": 1.5 if attempt == 1 else 0},
    "always 500": lambda attempt: {"status": 500, "retry_after": "0.01"},
    "always 400": lambda attempt: {"status": 400},
    "key echoed": lambda attempt: {"status": 401},
    "web page": lambda attempt: {"body": "<html>proxy</html>"},
    "no choices": lambda attempt: {"body": json.dumps({"object": "error", "message": "overloaded"})},
    "cut": lambda attempt: {"finish_reason": "length"},
    "filtered": lambda attempt: {"finish_reason": "content_filter"},
}


def test_every_failure_is_counted_and_named_and_never_stored(chat_server: "ChatServer", tmp_path: Path):
    chat_server.reply = lambda content, attempt: MISBEHAVIOUR[content](attempt)
    rows = requests(*MISBEHAVIOUR)
    settings = section(chat_server, max_failed_share=1, api_key_env="RAYRIEVER_TEST_KEY")
    answers = dict(zip(MISBEHAVIOUR, ask(rows, settings, tmp_path), strict=True))
    outcomes = {name: (answer["finish_reason"], answer["attempts"]) for name, answer in answers.items()}
    assert outcomes == {
        "limited once": ("stop", 2),
        "dropped once": ("stop", 2),
        "hangs once": ("stop", 2),
        "always 500": ("error", 3),
        "always 400": ("error", 1),
        "key echoed": ("error", 1),
        "web page": ("error", 1),
        "no choices": ("error", 1),
        "cut": ("length", 1),
        "filtered": ("content_filter", 1),
    }
    assert "500" in str(answers["always 500"]["error"])
    assert "Bearer ***" in str(answers["key echoed"]["error"])
    counted = totals(Workspace(str(tmp_path)))
    assert counted.sent == chat_server.total == 15
    assert counted.answered == 5
    for path in tmp_path.rglob("*.parquet"):
        assert os.environ["RAYRIEVER_TEST_KEY"].encode() not in path.read_bytes()

    chat_server.reply = lambda content, attempt: {}
    again = ask(rows, settings, tmp_path)
    assert {answer["error"] for answer in again} == {None}
    assert chat_server.total == 20, "only the five failures are asked again"


def test_too_many_failures_stop_the_run_and_say_what_to_do(chat_server: "ChatServer", tmp_path: Path):
    """A server that died must not be asked the remaining thousands of times, each with its retries."""
    chat_server.reply = lambda content, _: {"status": 404, "body": '{"error": {"message": "no such model"}}'}
    contents = [f"topic {number}" for number in range(400)]
    with pytest.raises(RayrieverError) as raised:
        ask(requests(*contents), section(chat_server, max_failed_share=0.05), tmp_path)
    text = str(raised.value)
    assert "of 400 requests (question) have no answer, more than max_failed_share = 5.0%" in text
    assert "no such model" in text
    assert "only the rest is asked" in text
    asked = chat_server.total
    assert asked < 200
    time.sleep(1)
    assert chat_server.total == asked, "nobody goes on asking while the error is shown"


def test_actor_killed_midway_is_replaced_and_pays_for_no_answer_twice(chat_server: "ChatServer", tmp_path: Path):
    chat_server.reply = lambda content, _: {"delay_s": 0.1}
    contents = [f"topic {number}" for number in range(120)]
    killed: list[set[str]] = []

    def kill() -> None:
        while chat_server.total < 50:
            time.sleep(0.01)
        workers = psutil.Process(os.getpid()).children(recursive=True)
        (actor,) = [each for each in workers if "ApiActor" in " ".join(each.cmdline())]
        actor.kill()
        killed.append(stored_contents(tmp_path))

    killer = threading.Thread(target=kill)
    killer.start()
    answers = ask(requests(*contents), section(chat_server, concurrency=4, timeout_s=5), tmp_path)
    killer.join()
    assert [answer["text"] for answer in answers] == [f"answer to {content}" for content in contents]
    assert len(killed[0]) > 20
    assert {chat_server.asked[content] for content in killed[0]} == {1}
    assert chat_server.total <= 120 + 2 * 4, "at most what was in flight, or had not been stored, is asked again"
    assert totals(Workspace(str(tmp_path))).answered == 120


def stored_contents(folder: Path) -> set[str]:
    import pyarrow.parquet as pq

    parts = list((folder / "llm" / "responses").glob("*.parquet"))
    return {text.removeprefix("answer to ") for part in parts for text in pq.read_table(part)["text"].to_pylist()}


def test_workspace_that_refuses_answers_is_one_readable_error(chat_server: "ChatServer", tmp_path: Path):
    def block(content: str, attempt: int) -> dict[str, object]:
        (tmp_path / "llm" / "responses").write_text("a file where the folder should be")
        return {}

    chat_server.reply = block
    with pytest.raises(RayrieverError, match=r"workspace .* cannot be written"):
        ask(requests("x"), section(chat_server), tmp_path)


def test_unreachable_server_is_named_before_anything_is_sent(tmp_path: Path):
    settings = LlmSection(engine="openai", model="test-model", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(RayrieverError, match=r"LLM server http://127\.0\.0\.1:9/v1 cannot be reached: .*refused"):
        ask(requests("x"), settings, tmp_path)
    assert not (tmp_path / "llm").exists()


def test_missing_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    settings = LlmSection(engine="openai", model="gpt", api_key_env="SOME_KEY")
    with pytest.raises(RayrieverError, match="environment variable SOME_KEY"):
        ask(requests("x"), settings, tmp_path)


def test_model_inside_a_package_is_no_served_name(tmp_path: Path):
    with pytest.raises(RayrieverError, match="name under which the server offers it"):
        ask(requests("x"), LlmSection(engine="openai", base_url="http://127.0.0.1:9/v1"), tmp_path)
