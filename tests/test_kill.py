"""kill -9 of the driver, or of a training worker: the same result, and nothing answered is asked again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.small_run import recipe_values, write_corpus, write_like_a_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GENERATED = 40  # requests for queries
EXTRA_ROWS = 800  # beside the recipe's own queries, so that an epoch takes seconds
BEFORE_TRAINING = ("corpus", "queries", "synthesis", "encode_base", "index_base")


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline.cli", "run", str(folder / "recipe.yaml")]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OPENAI_API_KEY": "sk-test"})


def finish(folder: Path) -> None:
    wait(start(folder), folder)


def wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    assert process.wait(600) == 0, (folder / "log").read_text()[-3000:]


def kill_when(folder: Path, reached: Callable[[], bool]) -> None:
    process = start(folder)
    wait_until(reached, process, folder)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 300
    while not reached():
        assert process.poll() is None, "ended before it could be killed: " + (folder / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_training_worker(process: subprocess.Popen[bytes]) -> None:
    """Of the processes below the driver, the one that trains; the driver and Ray stay alive."""
    below = psutil.Process(process.pid).children(recursive=True)
    (worker,) = [each for each in below if "RayTrainWorker" in command(each)]
    worker.send_signal(signal.SIGKILL)


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # gone since it was listed, or a zombie
        return ""


class Progress:
    """How far the training of a run is, seen from outside."""

    def __init__(self, folder: Path) -> None:
        self.workspace = folder / "workspace"

    def finished(self, stage: str) -> bool:
        return bool(list(self.workspace.glob(f"stages/{stage}/*/manifest.json")))

    def steps(self, stage: str) -> int:
        return sum(len(path.read_text().splitlines()) for path in self.workspace.glob(f"logs/{stage}-*/metrics.jsonl"))

    def checkpoints(self, stage: str) -> int:
        """Those of one stage: another's may be there until they are cleared away."""
        keys = [folder.name for folder in self.workspace.glob(f"stages/{stage}/*")]
        return sum(len(list(self.workspace.glob(f"training/{key}/checkpoint_*/"))) for key in keys)


def prepare(folder: Path, corpus: Path, encoder: Path, url: str) -> Path:
    """A run with both stages of training; runs share the corpus, so that their keys are equal."""
    folder.mkdir(exist_ok=True)
    values = recipe_values(corpus, encoder, url)
    values["workspace"] = str(folder / "workspace")
    values["distill"] |= {"cpus_per_worker": 2, "datasets": [{"path": str(corpus / "table.jsonl")}]}
    values["preferences"] = {"max_queries": 12, "top_k": 3, "pairs": "adjacent"}
    values["align"] = values["distill"] | {"epochs": 8, "batch_size": 2}
    del values["align"]["datasets"]
    values["encoder"] |= {"cpus_per_actor": 2}  # actors that hold every CPU must not wait for anything else
    values["ray"] = {"num_cpus": 2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder


def write_table(corpus: Path) -> None:
    rows = [{"query": f"what is number {n}", "positives": [f"number {n} is {n * n}"]} for n in range(EXTRA_ROWS)]
    (corpus / "table.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def results(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "workspace/report.json").read_text())
    return {name: report[name] for name in ("systems", "contrasts", "gate", "trainings", "changes")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    write_table(folder)
    return folder


def test_killed_runs_and_replaced_workers_end_like_a_quiet_run(
    tmp_path: Path, corpus: Path, tiny_encoder: Path, chat_server
):
    chat_server.reply = lambda content, attempt: {**write_like_a_model(content, attempt), "delay_s": 0.1}
    quiet = prepare(tmp_path / "quiet", corpus, tiny_encoder, chat_server.url)
    finish(quiet)
    asked_quietly, total_quietly = set(chat_server.asked), chat_server.total
    chat_server.asked.clear()

    killed = prepare(tmp_path / "killed", corpus, tiny_encoder, chat_server.url)
    progress = Progress(killed)
    kill_when(killed, lambda: chat_server.total >= GENERATED + 20)
    assert progress.finished("queries") and not progress.finished("synthesis")
    kill_when(killed, lambda: progress.steps("distill") > 0)
    assert not progress.finished("distill")
    before = progress.steps("distill")
    kill_when(killed, lambda: progress.checkpoints("distill") > 0 and progress.steps("distill") > before)
    assert not progress.finished("distill")
    kill_when(killed, lambda: progress.checkpoints("align") > 0)
    assert not progress.finished("align")
    finish(killed)

    assert results(killed) == results(quiet)
    repeated = chat_server.total - total_quietly
    in_flight_or_just_answered = 2 * 4  # llm.concurrency; answers are on disk 0.05 s after they arrive
    assert repeated <= in_flight_or_just_answered, "a stored answer was asked for again"
    assert set(chat_server.asked) == asked_quietly
    report = json.loads((killed / "workspace/report.json").read_text())
    # A request is written down just before it goes: each of three kills may come between.
    assert chat_server.total <= report["llm"]["requests_sent"] <= chat_server.total + 3 * 4

    _replace_workers(tmp_path / "replaced", quiet, corpus, tiny_encoder, chat_server.url)


def _replace_workers(folder: Path, quiet: Path, corpus: Path, encoder: Path, url: str) -> None:
    """Ray Train replaces a dead worker within the run, which goes on from its checkpoint to the same end."""
    replaced = prepare(folder, corpus, encoder, url)
    for stage in BEFORE_TRAINING:
        shutil.copytree(quiet / "workspace/stages" / stage, replaced / "workspace/stages" / stage)
    progress, process = Progress(replaced), start(replaced)
    wait_until(lambda: progress.checkpoints("distill") > 0, process, replaced)
    kill_training_worker(process)
    wait_until(lambda: progress.checkpoints("align") > 0, process, replaced)
    assert not progress.finished("align")
    kill_training_worker(process)
    wait(process, replaced)
    assert results(replaced) == results(quiet)
