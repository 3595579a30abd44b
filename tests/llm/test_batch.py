"""Batch files: what is written, and what is read back in any order."""

import json
import random
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from pipeline.errors import RayrieverError
from pipeline.llm.engines import batch
from pipeline.llm.engines.batch_files import Folder
from pipeline.llm.store import ResponseStore, totals
from pipeline.runner import run
from pipeline.workspace import Workspace
from tests.batch_files import Heard, answer, ask, lines, requests, result
from tests.small_run import Recorder, small_recipe, write_corpus, write_like_a_model

if TYPE_CHECKING:
    from tests.conftest import ChatServer


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
