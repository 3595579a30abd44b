"""A published collection of sampled text, and servers in processes of their own."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import psutil
import yaml

from pipeline.corpus.pydoc import read_documentation

_START_S = 600.0
_WORDS = (4, 8)  # of each half of a passage


class Sampler:
    """Runs of words out of the standard library's documentation."""

    def __init__(self, seed: int) -> None:
        self._words = " ".join(each.docstring for each in read_documentation("stdlib")).split()
        self._chance = random.Random(seed)

    def text(self, least: int, most: int) -> str:
        start = self._chance.randrange(len(self._words) - most)
        return " ".join(self._words[start : start + self._chance.randint(least, most)])


def publishable(folder: Path, passages: int, sets: Sequence[str] = ()) -> Path:
    """A recipe whose run is finished as far as serving needs it; made once per folder."""
    recipe = folder / "recipe.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    if not recipe.exists():
        sampler = Sampler(0)
        with (folder / "passages.jsonl").open("w") as out:
            for number in range(passages):
                text = f"{sampler.text(*_WORDS)} {sampler.text(*_WORDS)}"  # of two runs: hardly any text comes twice
                print(json.dumps({"_id": f"p{number}", "text": text}), file=out)
        values = {
            "workspace": str(folder / "workspace"),
            "corpus": {"path": str(folder / "passages.jsonl")},
            "queries": {"generate": 100, "kinds": ["crop"]},  # nothing is to be written by an LLM
            "synthesis": {"max_queries": 0},
            "serve": {"reranker": str(folder / "reranker"), "collections": ["live"]},
        }
        save_reranker(folder / "reranker")
        recipe.write_text(yaml.safe_dump(values))
    for stage in ("words", "index_base"):
        subprocess.run([*rayriever("run", recipe, sets), "--until", stage], check=True)
    return recipe


def save_reranker(folder: Path) -> None:
    """All-MiniLM-L6-v2 with a head that nobody has trained: it takes the time of a reranker, that is all."""
    from pipeline.recipe import ScorerSection
    from pipeline.scorer.load import load_scorer_model

    load_scorer_model(ScorerSection(), seed=0).save(folder)


def parser_of(description: str | None, workspace: str, seconds: float) -> argparse.ArgumentParser:
    """What all benchmarks of the server take, with these defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path(workspace))
    parser.add_argument("--set", action="append", default=[], help="Recipe values of our server, as of `rayriever`.")
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--json", action="store_true")
    return parser


def rayriever(command: str, recipe: Path, sets: Sequence[str] = ()) -> list[str]:
    given = [part for each in sets for part in ("--set", each)]
    return [sys.executable, "-m", "pipeline.cli", command, str(recipe), *given]


@contextmanager
def running(command: Sequence[str], port: int, ready: str, **environment: str) -> Iterator[psutil.Process]:
    """The process of a server, from when it answers `ready` until the block ends."""
    process = subprocess.Popen(command, env=os.environ | environment, stdout=sys.stderr)
    try:
        deadline = time.monotonic() + _START_S
        while not _answers(f"http://127.0.0.1:{port}{ready}"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"did not start: {' '.join(command)}")
            time.sleep(0.5)
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def memory_mb(process: psutil.Process) -> int:
    """Of the process and all that it started; what they share is counted once."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return round(total / 1e6)
