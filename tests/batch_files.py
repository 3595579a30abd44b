"""Requests of engine `batch`: what asks them, the files they wait in, and results as the API writes them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.llm.complete import complete
from pipeline.llm.requests import Sampling
from pipeline.progress import Silent
from pipeline.recipe import LlmSection, RaySection
from pipeline.records import LLM_RESPONSE
from pipeline.workspace import Workspace
from tests.asked import build

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
