"""What a server does that is asked too much, or loses its replicas while its collection changes.

overload: 10 times the rate that it sustains, for a minute. soak: 70 % of that rate while a generation is switched every
two minutes and a replica killed every minute; every tenth search is reranked, and every answer is compared with the one
that the quiet server gave. That takes models in float32: in bfloat16 an answer depends on what it shared a batch with.

    python benchmarks/serving_drill.py soak --seconds 1200 --set serve.together=false --set 'serve.gateways=[2,2]' \\
        --set 'serve.encoders=[2,2]' --set 'serve.slot_replicas=[2,2]' --set 'serve.rerankers=[2,2]' \\
        --set encoder.dtype=float32 --set scorer.dtype=float32 --set index.threads_per_shard=1 \\
        --set encoder.cpus_per_actor=1 --set scorer.cpus_per_actor=1
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import psutil
from figures import show
from load import closed_loop, open_loop, percentiles
from served import Sampler, free_port, memory_mb, parser_of, publishable, rayriever, running

from pipeline.recipe import load_recipe

_CLIENTS = 16
_MEASURE_S = 10.0
_QUERIES = 50
_RERANKED = 0.1  # of the searches of a soak
# A server has recovered when so many searches one after the other were answered
_IN_A_ROW = 10
_RETRIES = 2  # of OpenAI's and Cohere's clients
_SCORE_TOLERANCE = 1e-5
PARTS = ("gateway", "encoder", "vectors-0", "texts-0", "librarian", "reranker")


def main() -> None:
    arguments = parse_arguments()
    recipe, port = publishable(arguments.workspace, arguments.passages, arguments.set), free_port()
    command = [*rayriever("serve", recipe, arguments.set), "--port", str(port)]
    with running(command, port, "/readyz", HF_HUB_OFFLINE="1") as process:
        url = f"http://127.0.0.1:{port}"
        sampler = Sampler(5)
        queries = [sampler.text(4, 12) for _ in range(_QUERIES)]
        chance = random.Random(6)

        def body() -> dict[str, Any]:
            query = chance.choice(queries)
            if arguments.drill == "overload":
                return {"query": query, "top_k": 10}
            return _asked(query, rerank=chance.random() < _RERANKED)

        closed_loop(f"{url}/v1/search", body, _CLIENTS, _MEASURE_S)  # the warm-up
        quiet = closed_loop(f"{url}/v1/search", body, _CLIENTS, _MEASURE_S)
        figures: dict[str, object] = {"passages": arguments.passages, "sustained_per_s": round(quiet.rate, 1)}
        figures |= {f"sustained_{what}": value for what, value in percentiles(quiet.answered).items()}
        drill = overload if arguments.drill == "overload" else soak
        figures |= drill(arguments, Drilled(process, url, body, queries, quiet.rate))
    show(arguments.json, figures)


@dataclass(frozen=True)
class Drilled:
    """A server, what it is asked, and how much of that it sustains."""

    process: psutil.Process
    url: str
    body: Callable[[], Any]
    queries: list[str]
    sustained: float  # answers per second


def overload(arguments: argparse.Namespace, drilled: Drilled) -> dict[str, object]:
    before = memory_mb(drilled.process)
    with _Memory(drilled.process) as memory:
        outcome = open_loop(f"{drilled.url}/v1/search", drilled.body, 10 * drilled.sustained, arguments.seconds)
        ended = time.perf_counter()
        answered = 0
        while answered < _IN_A_ROW:
            ok = httpx.post(f"{drilled.url}/v1/search", json=drilled.body(), timeout=60).status_code == 200
            answered = answered + 1 if ok else 0
        recovered = time.perf_counter() - ended
    return {
        "seconds": arguments.seconds,
        "offered_per_s": round(10 * drilled.sustained, 1),
        "accepted": len(outcome.answered),
        "accepted_per_s": round(outcome.rate, 1),
        **{f"accepted_{what}": value for what, value in percentiles(outcome.answered).items()},
        "refused": len(outcome.refused),
        **{f"refused_{what}": value for what, value in percentiles(outcome.refused).items()},
        "failed": outcome.failed(),
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "memory_before_mb": before,
        "memory_most_mb": memory.most,
        "recovered_s": round(recovered, 2),
    }


def soak(arguments: argparse.Namespace, drilled: Drilled) -> dict[str, object]:
    wanted = {
        (query, rerank): _hits(httpx.post(f"{drilled.url}/v1/search", json=_asked(query, rerank), timeout=60).json())
        for query in drilled.queries
        for rerank in (False, True)
    }
    together = load_recipe(str(arguments.workspace / "recipe.yaml"), arguments.set).serve.together
    parts = PARTS[:1] if together else PARTS
    before, stop = memory_mb(drilled.process), threading.Event()
    killed: list[str] = []
    changes: list[str] = []

    def every(seconds: float, act: Callable[[int], None]) -> None:
        number = 0
        while not stop.wait(seconds):
            act(number)
            number += 1

    def kill(number: int) -> None:
        part = parts[number % len(parts)]
        _replica(drilled.process, part).kill()
        killed.append(part)

    def change(number: int) -> None:
        # words that no query has
        sent = {"documents": [{"id": f"new-{number}", "text": f"zzyzx{number} qwxv{number}"}]}
        for _ in range(20):
            try:
                changes.append(httpx.post(f"{drilled.url}/v1/documents", json=sent, timeout=60).json()["id"])
                return
            except (httpx.HTTPError, KeyError):  # the librarian is being replaced
                time.sleep(1)

    with ThreadPoolExecutor(2) as pool, _Memory(drilled.process) as memory:
        pool.submit(every, arguments.kill_every, kill)
        pool.submit(every, arguments.switch_every, change)
        outcome = open_loop(
            f"{drilled.url}/v1/search",
            drilled.body,
            0.7 * drilled.sustained,
            arguments.seconds,
            lambda sent, answer: _same(_hits(answer), wanted[sent["query"], sent["rerank"]]),
            _RETRIES,
        )
        stop.set()
    generation = httpx.get(f"{drilled.url}/info").json()["collections"]["live"]["generation"]
    return {
        "seconds": arguments.seconds,
        "offered_per_s": round(0.7 * drilled.sustained, 1),
        "answered": len(outcome.answered),
        "wrong": outcome.wrong,
        **{f"answered_{what}": value for what, value in percentiles(outcome.answered).items()},
        "sent_again": {str(status): count for status, count in sorted(outcome.sent_again.items())},
        "refused": len(outcome.refused),
        "failed": outcome.failed(),
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "killed": {part: killed.count(part) for part in parts},
        "changes": len(changes),
        "generation": generation,
        "memory_before_mb": before,
        "memory_most_mb": memory.most,
    }


def _asked(query: str, rerank: bool) -> dict[str, Any]:
    return {"query": query, "top_k": 10, "rerank": rerank}


def _hits(answer: Any) -> list[tuple[str, float]]:
    return [(hit["id"], hit["score"]) for hit in answer["results"][0]["hits"]]


def _same(got: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> bool:
    """Whether two lists of hits are one, but for the order of equal scores, and which of those equal to the last."""
    if len(got) != len(wanted) or any(
        abs(a - b) > _SCORE_TOLERANCE for (_, a), (_, b) in zip(got, wanted, strict=True)
    ):
        return False
    last = wanted[-1][1] + 2 * _SCORE_TOLERANCE
    return {name for name, score in got if score > last} == {name for name, score in wanted if score > last}


def _replica(server: psutil.Process, part: str) -> psutil.Process:
    """The process of a deployment's replica; Ray names it, and what it does just now behind a point."""
    wanted = f"ray::ServeReplica:rayriever:{part}"
    while True:
        for each in server.children(recursive=True):
            try:
                if "".join(each.cmdline()).split(".")[0] == wanted:
                    return each
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.5)


class _Memory:
    """The most that a server used, looked at every second."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._stop, self.most = process, threading.Event(), 0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self.most = max(self.most, memory_mb(self._process))


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "workspace/bench_search", 60.0)
    parser.add_argument("drill", choices=("overload", "soak"))
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--kill-every", type=float, default=60.0)
    parser.add_argument("--switch-every", type=float, default=120.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
