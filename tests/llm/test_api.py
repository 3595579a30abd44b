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
from pipeline.llm.requests import Sampling
from pipeline.llm.store import totals
from pipeline.progress import Silent
from pipeline.recipe import LlmSection, RaySection
from pipeline.workspace import Workspace
from tests.asked import build

if TYPE_CHECKING:
    from tests.conftest import ChatServer

pytestmark = pytest.mark.usefixtures("ray_cluster")


def section(server: "ChatServer", **changes: object) -> LlmSection:
    values = {
        "base_url": server.url,
        "timeout_s": 60.0,
        "max_retries": 2,
        "concurrency": 8,
        "cpus_per_actor": 0.5,
    }
    return LlmSection.model_validate({"engine": "openai", "model": "test-model", **values, **changes})


def requests(*contents: str) -> pa.Table:
    return build("test-model", "question", [[{"role": "user", "content": each}] for each in contents], Sampling(0.5, 9))


def ask(rows: pa.Table, settings: LlmSection, folder: Path) -> list[dict[str, object]]:
    return list(complete([rows], settings, Workspace(str(folder)), RaySection(), Silent(), "question"))


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
        "tokens_cached": 0,
    }
    assert set(chat_server.asked.values()) == {1}
    assert 4 <= chat_server.most_in_flight <= 8
    assert chat_server.bodies[0]["max_tokens"] == 9 and chat_server.bodies[0]["temperature"] == 0.5
    assert (totals(Workspace(str(tmp_path))).sent, totals(Workspace(str(tmp_path))).answered) == (30, 30)


MISBEHAVIOUR = {
    "limited once": lambda attempt: {"status": 429, "headers": {"Retry-After": "0.1"}} if attempt == 1 else {},
    "dropped once": lambda attempt: {"drop": attempt == 1},
    "hangs once": lambda attempt: {"delay_s": 8 if attempt == 1 else 0},
    "always 500": lambda attempt: {"status": 500, "headers": {"Retry-After": "0.01"}},
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
    settings = section(chat_server, max_failed_share=1, api_key_env="RAYRIEVER_TEST_KEY", timeout_s=5)
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
    assert chat_server.total < 200
    time.sleep(1)  # what was on its way arrives
    asked = chat_server.total
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
    answers = ask(requests(*contents), section(chat_server, concurrency=4), tmp_path)
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


def test_budget_holds_over_all_actors_and_a_raised_one_goes_on_from_there(chat_server: "ChatServer", tmp_path: Path):
    """Counted by each actor for itself, a limit of 60 would be one of 180."""
    chat_server.reply = lambda content, attempt: {"delay_s": 0.05, "status": 429 if attempt == 1 else 200}
    rows, limited = requests(*(f"topic {number}" for number in range(150))), {"actors": 3, "cpus_per_actor": 0.5}
    with pytest.raises(RayrieverError) as raised:
        ask(rows, section(chat_server, budget={"max_requests": 60}, **limited), tmp_path)
    text = str(raised.value)
    assert "60 requests sent; llm.budget.max_requests is 60" in text and "of 150 requests (question) were not" in text
    assert chat_server.total == 60 == totals(Workspace(str(tmp_path))).sent
    stored = totals(Workspace(str(tmp_path))).answered
    assert f"{stored} answers are stored" in text
    settings = section(chat_server, budget={"max_requests": 100, "on_reached": "finish"}, **limited)
    answers = ask(rows, settings, tmp_path)
    assert chat_server.total == 100, "further attempts count, too"
    unsent = [answer["error"] for answer in answers if answer["error"]]
    assert all(str(error).startswith("over budget: 100 requests") for error in unsent)
    answered_once = ask(rows, section(chat_server, **limited), tmp_path)
    assert {answer["error"] for answer in answered_once} == {None}
    assert chat_server.total == 300 and set(chat_server.asked.values()) == {2}


def test_tokens_that_answers_use_count_against_the_budget(chat_server: "ChatServer", tmp_path: Path):
    rows = requests(*(f"topic {number}" for number in range(60)))
    with pytest.raises(RayrieverError, match=r"tokens used; llm.budget.max_tokens is 120"):
        ask(rows, section(chat_server, concurrency=2, budget={"max_tokens": 120}), tmp_path)
    assert 20 <= chat_server.total <= 30, "six tokens each, and no more on top than what was in flight"


def test_rate_holds_over_all_actors(chat_server: "ChatServer", tmp_path: Path):
    began = time.monotonic()
    ask(
        requests(*(f"topic {number}" for number in range(30))),
        section(chat_server, actors=2, requests_per_minute=300),
        tmp_path,
    )
    assert time.monotonic() - began >= 4.5, "five at once and 25 more at five per second"


def test_waiting_for_a_place_uses_up_no_deadline(chat_server: "ChatServer", tmp_path: Path):
    """Held by its actor for an hour, a request would have one attempt and no second."""

    def fails_at_the_end(content: str, attempt: int) -> dict[str, object]:
        return {"delay_s": 0.1, "status": 500 if content in ("topic 25", "topic 29") and attempt == 1 else 200}

    chat_server.reply = fails_at_the_end
    rows = requests(*(f"topic {number}" for number in range(30)))
    answers = ask(rows, section(chat_server, concurrency=1, deadline_s=2.0), tmp_path)
    assert {answer["error"] for answer in answers} == {None}, "one at a time, they have waited for 2.5 s and more"


def test_request_that_is_turned_away_for_ever_ends_with_its_error(chat_server: "ChatServer", tmp_path: Path):
    """Being turned away is no failure: no number of retries ends it."""
    chat_server.reply = lambda content, _: {"status": 503 if content == "topic 3" else 200}
    rows = requests(*(f"topic {number}" for number in range(20)))
    answers = ask(rows, section(chat_server, deadline_s=1.5, max_failed_share=1), tmp_path)
    assert [str(answer["error"])[:8] for answer in answers if answer["error"]] == ["HTTP 503"]
    assert answers[3]["attempts"] == chat_server.asked["topic 3"] > 3


def test_dead_endpoint_is_passed_over_and_keys_stay_with_their_servers(
    chat_server: "ChatServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    chat_server.reply = lambda content, attempt: {"delay_s": 0.02}
    endpoints = [
        {"base_url": chat_server.url, "api_key_env": "RAYRIEVER_TEST_KEY"},
        {"base_url": chat_server.url.replace("/v1", "/broken/v1"), "api_key_env": "OTHER_KEY"},
    ]
    answers = ask(
        requests(*(f"topic {number}" for number in range(200))),
        section(chat_server, endpoints=endpoints, max_retries=4),
        tmp_path,
    )
    assert {answer["error"] for answer in answers} == {None}
    assert chat_server.broken < 60


def test_server_that_dies_midway_is_one_readable_error_and_soon(chat_server: "ChatServer", tmp_path: Path):
    """Each of thousands of requests with its own retries would keep a run going for hours after the server died."""
    chat_server.reply = lambda content, attempt: {"drop": chat_server.total > 30}
    settings = section(chat_server, down_s=2.0, concurrency=4, max_retries=50, max_failed_share=0.05)
    with pytest.raises(RayrieverError, match=r"have no answer(.|\n)*the server is down(.|\n)*answers are stored"):
        ask(requests(*(f"topic {number}" for number in range(300))), settings, tmp_path)
    assert chat_server.total < 80


def test_missing_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    settings = LlmSection(engine="openai", model="gpt", api_key_env="SOME_KEY")
    with pytest.raises(RayrieverError, match="environment variable SOME_KEY"):
        ask(requests("x"), settings, tmp_path)


def test_model_inside_a_package_is_no_served_name(tmp_path: Path):
    with pytest.raises(RayrieverError, match="name under which the server offers it"):
        ask(requests("x"), LlmSection(engine="openai", base_url="http://127.0.0.1:9/v1"), tmp_path)
