"""Memory of the process that asks: 10,000 requests against 300,000 of the same kind.

Requests are made while they are asked, and answers looked at one by one, as a stage does it; a local server answers at
once. Counted is the private memory of the driver, its highest value after Ray has started: what it shares with Ray's
object store belongs to no process. Each count is a process of its own with a new workspace.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from figures import show
from llm_fanout import stub

from pipeline.llm.complete import complete
from pipeline.llm.requests import Request, Sampling, tables
from pipeline.progress import Silent
from pipeline.ray_session import ensure_ray
from pipeline.recipe import LlmSection, RaySection
from pipeline.workspace import Workspace

_PROMPT_WORDS = 250  # a passage and its instruction
_EVERY_S = 0.25


def main() -> None:
    arguments = parse_arguments()
    if arguments.side is not None:
        print(json.dumps(side(arguments.side)))
        return
    found = {count: run(count) for count in arguments.counts}
    figures: dict[str, object] = {}
    for count, values in found.items():
        figures |= {f"{name}_at_{count}": value for name, value in values.items()}
    least, most = min(found), max(found)
    figures["growth_mb"] = round(found[most]["peak_mb"] - found[least]["peak_mb"], 1)
    show(arguments.json, figures)


def run(count: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--side", str(count)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{count} requests failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def side(count: int) -> dict[str, float]:
    ensure_ray(RaySection(num_cpus=2, object_store_mb=500))
    with stub("--latency-s", "0.01") as url, tempfile.TemporaryDirectory() as folder, Peak() as peak:
        before = private_mb()
        section = LlmSection(engine="openai", model="stub", base_url=url, concurrency=32)
        began = time.monotonic()
        asked = tables("stub", requests(count))
        answers = complete(asked, section, Workspace(folder), RaySection(), Silent(), "question")
        tokens = sum(row["tokens_out"] for row in answers)
        assert tokens == 2 * count, f"{tokens} tokens for {count} answers"
        seconds = time.monotonic() - began
    return {
        "peak_mb": round(peak.highest_mb, 1),
        "before_mb": round(before, 1),
        "requests_per_s": round(count / seconds, 1),
    }


def requests(count: int) -> Iterator[Request]:
    text = "word " * _PROMPT_WORDS
    for number in range(count):
        yield Request("question", [{"role": "user", "content": f"{number} {text}"}], Sampling(0, 9))


class Peak:
    """The highest private memory of this process, looked at now and then."""

    def __enter__(self) -> Peak:
        self.highest_mb, self._ended = 0.0, threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self.highest_mb = max(self.highest_mb, private_mb())


def private_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("This system does not tell the private memory of a process.")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 300_000])
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
