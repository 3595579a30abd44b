"""Requests per second through our API path against what the server could do, and against Ray's own HTTP processor.

A local server takes 64 requests at a time and 200 ms for each: the ideal is 320 per second. Timed by the server, from
the first request to the last answer, so that starting actors does not count. Sides take turns, the order swapped every
repetition, each with a Ray of its own; quoted are medians and extremes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from figures import show

from pipeline.llm.complete import complete
from pipeline.llm.requests import Request, Sampling, tables
from pipeline.progress import Silent
from pipeline.ray_session import ensure_ray
from pipeline.recipe import LlmSection, RaySection
from pipeline.workspace import Workspace

CONCURRENT, LATENCY_S = 64, 0.2
MOST_IN_FLIGHT = 2 * CONCURRENT  # of ours, which has to find out what the server takes
FAULTS = ("--busy", "0.1", "--broken", "0.02", "--hangs", "0.01")
HANG_S = 2.0  # after which our side gives an attempt up
CPUS, PEER_CPUS = 2, 24  # that Ray believes in: the peer reserves one for every request in flight
Counts = dict[str, float]


def main() -> None:
    arguments = parse_arguments()
    sides: dict[str, Callable[[], Counts]] = {
        "ours": lambda: measure(ours, CPUS, arguments.requests),
        "ours_with_faults": lambda: measure(ours, CPUS, arguments.requests, *FAULTS),
        "ray_http": lambda: measure(ray_http, PEER_CPUS, arguments.peer_requests),
    }
    found: dict[str, list[Counts]] = {name: [] for name in sides}
    for repetition in range(arguments.repetitions):
        for name in list(sides) if repetition % 2 else list(sides)[::-1]:
            found[name].append(sides[name]())
    show(arguments.json, summarise(found, arguments))


def measure(ask: Callable[[str, int], None], cpus: int, requests: int, *faults: str) -> Counts:
    with own_ray(cpus), stub(*faults) as url:
        ask(url, requests)
        with urllib.request.urlopen(f"{url}/counts") as answer:
            counts: Counts = json.load(answer)
    # What was turned away, failed or lost has cost the server no time.
    counts["of_ideal"] = counts["answered"] * LATENCY_S / CONCURRENT / counts["seconds"]
    return counts


@contextmanager
def own_ray(cpus: int) -> Iterator[None]:
    import ray

    ensure_ray(RaySection(num_cpus=cpus, object_store_mb=200))
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def stub(*faults: str) -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("chat_stub.py")), *faults]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        server.kill()


def ours(url: str, requests: int) -> None:
    asked = (Request("question", [{"role": "user", "content": f"q {n}"}], Sampling(0, 9)) for n in range(requests))
    section = LlmSection(
        engine="openai", model="stub", base_url=url, concurrency=MOST_IN_FLIGHT, timeout_s=HANG_S, max_retries=8
    )
    with tempfile.TemporaryDirectory() as folder:
        answers = complete(tables("stub", asked), section, Workspace(folder), RaySection(), Silent(), "question")
        assert all(row["error"] is None for row in answers), "a request stayed without an answer"


def ray_http(url: str, requests: int) -> None:
    import ray.data
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    config = HttpRequestProcessorConfig(url=f"{url}/chat/completions", concurrency=16)
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "payload": {"model": "stub", "messages": [{"role": "user", "content": f"q {row['id']}"}]}
        },
        postprocess=lambda row: {"text": row["http_response"]["choices"][0]["message"]["content"]},
    )
    answers = processor(ray.data.range(requests)).take_all()
    assert len(answers) == requests


def summarise(found: dict[str, list[Counts]], arguments: argparse.Namespace) -> dict[str, object]:
    figures: dict[str, object] = {"ideal_per_s": CONCURRENT / LATENCY_S, "repetitions": arguments.repetitions}
    for name, runs in found.items():
        rates = [each["answered"] / each["seconds"] for each in runs]
        shares = [each["of_ideal"] for each in runs]
        figures[f"{name}_per_s"] = round(statistics.median(rates), 1)
        figures[f"{name}_of_ideal"] = round(statistics.median(shares), 3)
        figures[f"{name}_of_ideal_min"] = round(min(shares), 3)
        figures[f"{name}_of_ideal_max"] = round(max(shares), 3)
        for count in ("requests", "answered", "answered_twice", "turned_away", "failed", "hung"):
            figures[f"{name}_{count}"] = statistics.median(each[count] for each in runs)
    return figures


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--peer-requests", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
