"""kill -9 of the driver, then the same command: the same result, and nothing answered is asked again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.small_run import recipe_values, write_corpus, write_like_a_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline.cli", "run", str(folder / "recipe.yaml")]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OPENAI_API_KEY": "sk-test"})


def finish(folder: Path) -> None:
    process = start(folder)
    assert process.wait(600) == 0, (folder / "log").read_text()[-3000:]


def kill_when(folder: Path, reached: Callable[[], bool]) -> None:
    process = start(folder)
    deadline = time.monotonic() + 300
    while not reached():
        assert process.poll() is None, "ended before it could be killed: " + (folder / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def prepare(folder: Path, encoder: Path, url: str) -> Path:
    write_corpus(folder)
    values = recipe_values(folder, encoder, url)
    values["distill"] |= {"epochs": 6, "cpus_per_worker": 2}
    values["encoder"] |= {"cpus_per_actor": 2}  # actors that hold every CPU must not wait for anything else
    values["ray"] = {"num_cpus": 2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder


def results(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "workspace/report.json").read_text())
    return {name: report[name] for name in ("systems", "dev", "test", "gate", "training", "gains", "losses")}


def test_killed_runs_end_like_a_quiet_one(tmp_path: Path, tiny_encoder: Path, chat_server):
    chat_server.reply = lambda content, attempt: {**write_like_a_model(content, attempt), "delay_s": 0.1}
    quiet = prepare(tmp_path / "quiet", tiny_encoder, chat_server.url)
    finish(quiet)
    asked_quietly = dict(chat_server.asked)
    chat_server.asked.clear()

    killed = prepare(tmp_path / "killed", tiny_encoder, chat_server.url)
    generated = 40
    kill_when(killed, lambda: chat_server.total >= generated + 20)  # in synthesis
    stages = killed / "workspace/stages"
    assert list(stages.glob("queries/*/manifest.json")) and not list(stages.glob("synthesis/*/manifest.json"))
    kill_when(killed, lambda: bool(list((killed / "workspace/training").glob("*/checkpoint_*/"))))  # in training
    assert not list(stages.glob("distill/*/manifest.json"))
    finish(killed)

    assert results(killed) == results(quiet)
    repeated = sum(count - 1 for count in chat_server.asked.values())
    in_flight_or_just_answered = 2 * 4  # llm.concurrency; answers are on disk 0.05 s after they arrive
    assert repeated <= in_flight_or_just_answered, "a stored answer was asked for again"
    assert set(chat_server.asked) == set(asked_quietly)
    report = json.loads((killed / "workspace/report.json").read_text())
    assert report["llm"]["requests_sent"] == chat_server.total
