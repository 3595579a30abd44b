"""The whole way from requests to answers, interrupted."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from pipeline.llm.complete import complete
from pipeline.llm.requests import Sampling
from pipeline.llm.responses import Answer, to_table
from pipeline.llm.store import ResponseStore, totals
from pipeline.recipe import LlmSection, RaySection
from pipeline.workspace import Workspace
from tests.asked import build

if TYPE_CHECKING:
    from tests.conftest import ChatServer

CONTENTS = [f"topic {number}" for number in range(160)]
CONCURRENCY = 4

ROOT = str(Path(__file__).parents[2])

# It knows the package by a path of its own: its workers have to be told.
DRIVER = f"""
import sys
sys.path.insert(0, {ROOT!r})
"""
DRIVER += """
from pipeline.llm.complete import complete
from pipeline.llm.requests import Sampling
from pipeline.progress import Silent
from pipeline.recipe import LlmSection, RaySection
from pipeline.workspace import Workspace
from tests.asked import build

url, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
rows = build(
    "test-model", "question", [[{"role": "user", "content": f"topic {n}"}] for n in range(count)], Sampling(0.5, 9)
)
section = LlmSection(engine="openai", model="test-model", base_url=url, concurrency=4, cpus_per_actor=0.5)
answers = complete([rows], section, Workspace(folder), RaySection(num_cpus=1, object_store_mb=100), Silent(), "q")
assert {row["finish_reason"] for row in answers} == {"stop"}
"""


class Heard:
    """Remembers what was reported."""

    def __init__(self) -> None:
        self.updates: list[tuple[str, int, int]] = []
        self.messages: list[str] = []

    def update(self, description: str, done: int, total: int) -> None:
        self.updates.append((description, done, total))

    def message(self, text: str) -> None:
        self.messages.append(text)


def rows() -> pa.Table:
    return build("test-model", "question", [[{"role": "user", "content": c}] for c in CONTENTS], Sampling(0.5, 9))


def driver(server: "ChatServer", workspace: Path, cwd: Path, count: int = len(CONTENTS)) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", DRIVER, server.url, str(workspace), str(count)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_until_quiet(server: "ChatServer") -> None:
    """Actors outlive a killed driver by a moment."""
    seen = -1
    while seen != server.total:
        seen = server.total
        time.sleep(1)


def test_killed_driver_pays_for_no_answer_twice(chat_server: "ChatServer", tmp_path: Path):
    chat_server.reply = lambda content, _: {"delay_s": 0.1}
    first = driver(chat_server, tmp_path / "w", tmp_path)
    while chat_server.total < 60:
        assert first.poll() is None, first.stdout and first.stdout.read().decode()
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_until_quiet(chat_server)
    asked_by_killed = chat_server.total
    assert asked_by_killed < len(CONTENTS)
    workspace = Workspace(str(tmp_path / "w"))
    ids = dict(zip(CONTENTS, rows()["request_id"].to_pylist(), strict=True))
    stored = set(ResponseStore(workspace).lookup(pa.chunked_array([list(ids.values())]))["request_id"].to_pylist())
    assert len(stored) >= asked_by_killed - 2 * CONCURRENCY

    second = driver(chat_server, tmp_path / "w", tmp_path)
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output.decode()
    assert output.decode() == "", "a run says nothing but what the command line prints"
    assert {chat_server.asked[content] for content, each in ids.items() if each in stored} == {1}
    assert set(chat_server.asked) == set(CONTENTS)
    assert chat_server.total <= len(CONTENTS) + 2 * CONCURRENCY
    counted = totals(workspace)
    assert counted.answered == len(CONTENTS)
    assert chat_server.total <= counted.sent <= chat_server.total + 2 * CONCURRENCY, "what was written down ahead"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_of_one_run_ask_at_most_what_was_in_flight_again(chat_server: "ChatServer", tmp_path: Path):
    chat_server.reply = lambda content, _: {"delay_s": 0.05}
    count, drawn = 2000, random.Random(0)
    contents = [f"topic {number}" for number in range(count)]
    requests = build("test-model", "question", [[{"role": "user", "content": c}] for c in contents], Sampling(0.5, 9))
    ids = requests["request_id"]
    workspace = Workspace(str(tmp_path / "w"))
    settled: dict[str, int] = {}  # how often it had been asked when its answer was found in the store
    for kill in range(10):
        first = driver(chat_server, tmp_path / "w", tmp_path, count)
        moment = chat_server.total + drawn.randrange(20, 180)
        while chat_server.total < moment:
            assert first.poll() is None, first.stdout and first.stdout.read().decode()
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)
        first.wait()
        wait_until_quiet(chat_server)
        stored = set(ResponseStore(workspace).lookup(ids)["request_id"].to_pylist())
        for content, request_id in zip(contents, ids.to_pylist(), strict=True):
            if request_id in stored:
                settled.setdefault(content, chat_server.asked[content])
        assert chat_server.total - len(stored) <= (kill + 1) * 2 * CONCURRENCY
    last = driver(chat_server, tmp_path / "w", tmp_path, count)
    output, _ = last.communicate(timeout=300)
    assert last.returncode == 0, output.decode()
    assert set(chat_server.asked) == set(contents)
    assert {content: chat_server.asked[content] for content in settled} == settled, "paid for again"
    assert chat_server.total <= count + 10 * 2 * CONCURRENCY
    assert totals(workspace).answered == count


def test_nothing_missing_starts_no_ray_and_asks_nobody(tmp_path: Path):
    """A finished workspace must be readable where neither server nor Ray is."""
    workspace, requests = Workspace(str(tmp_path)), rows()
    answers = [Answer(each, "text", "stop", 1, 2, 1) for each in requests["request_id"].to_pylist()]
    ResponseStore(workspace).add(to_table(answers), requests["purpose"], "test-model")
    code = DRIVER.replace("import sys", "import sys\nsys.modules['ray'] = None", 1)
    command = [sys.executable, "-c", code, "http://127.0.0.1:9/v1", str(tmp_path), str(len(CONTENTS))]
    subprocess.run(command, check=True)


@pytest.mark.usefixtures("ray_cluster")
def test_progress_counts_what_was_there_and_tells_the_rate(chat_server: "ChatServer", tmp_path: Path):
    workspace, requests, heard = Workspace(str(tmp_path)), rows(), Heard()
    section = LlmSection(engine="openai", model="test-model", base_url=chat_server.url, cpus_per_actor=0.5)
    complete([requests.slice(0, 10)], section, workspace, RaySection(), heard, "question")
    complete([requests.slice(0, 30)], section, workspace, RaySection(), heard, "question")
    assert heard.updates[0] == ("question", 0, 10)
    assert ("question", 10, 30) in heard.updates
    assert heard.updates[-1][1:] == (30, 30)
    assert heard.updates[-1][0].endswith("tokens/s")
    assert "30 requests, 10 of them answered before, 0 without an answer" in heard.messages[-1]
