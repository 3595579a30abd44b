"""Latency of /v1/search beside the same search called in this process: what gateway and Ray Serve cost.

Both search the same collection with the same weights, one request at a time, and take turns. Quoted are medians over
repetitions of each repetition's percentiles, and of their difference: HTTP minus direct.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable

import psutil
from figures import show
from load import Outcome, closed_loop, open_loop, percentiles
from served import Sampler, free_port, memory_mb, parser_of, publishable, rayriever, running

from pipeline.collection.about import collection_folder
from pipeline.recipe import Recipe, load_recipe
from pipeline.workspace import Workspace
from serving.backend import FanOut, Here
from serving.generations import Ref
from serving.parts import Parts, about_of
from serving.search import Search, search

_DEPTH = 20
# mode of the request, and hits that are reranked
KINDS = {"dense": ("dense", 0), "bm25": ("bm25", 0), "hybrid": ("hybrid", 0), "reranked": ("hybrid", _DEPTH)}


def main() -> None:
    arguments = parse_arguments()
    recipe, port = publishable(arguments.workspace, arguments.passages, arguments.set), free_port()
    command = [*rayriever("serve", recipe, arguments.set), "--port", str(port)]
    with running(command, port, "/readyz", HF_HUB_OFFLINE="1") as process:
        direct = Direct(load_recipe(str(recipe), arguments.set))
        url = f"http://127.0.0.1:{port}/v1/search"
        figures: dict[str, object] = {"passages": arguments.passages, "seconds": arguments.seconds}
        for kind in arguments.kinds:
            figures |= measure(arguments, kind, direct, url)
        figures["memory_mb"] = memory_mb(process)
    figures["benchmark_memory_mb"] = memory_mb(psutil.Process())
    show(arguments.json, figures)


class Direct:
    """The parts of the server in this process."""

    def __init__(self, recipe: Recipe) -> None:
        folder = collection_folder(Workspace(recipe.workspace))
        self._ref = Ref("live", folder.current().number)
        self._about = about_of(recipe, self._ref)
        self._backend = FanOut(Parts.here(recipe), Here())
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._backend.open([self._ref]))

    def latencies(self, asked: Callable[[], Search], seconds: float) -> list[float]:
        """Of one search after the other."""
        found, end = [], time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            self._loop.run_until_complete(search(self._backend, self._ref, self._about, asked()))
            found.append(time.perf_counter() - began)
        return found


def measure(arguments: argparse.Namespace, kind: str, direct: Direct, url: str) -> dict[str, object]:
    mode, depth = KINDS[kind]
    sampler = Sampler(3)

    def asked() -> Search:
        return Search([sampler.text(4, 12)], 10, mode, depth)  # type: ignore[arg-type]

    def body() -> dict[str, object]:
        sent = {"query": sampler.text(4, 12), "top_k": 10, "mode": mode, "rerank": bool(depth)}
        return sent | {"rerank_top_k": depth} if depth else sent

    def over_http() -> Outcome:
        return closed_loop(url, body, 1, arguments.seconds)

    direct.latencies(asked, arguments.seconds / 2)
    over_http()
    here: list[dict[str, float]] = []
    there: list[Outcome] = []
    for repetition in range(arguments.repetitions):
        if repetition % 2:
            there.append(over_http())
        here.append(percentiles(direct.latencies(asked, arguments.seconds)))
        if not repetition % 2:
            there.append(over_http())
    return described(kind, here, there) | loaded(arguments, kind, body, url)


def described(kind: str, here: list[dict[str, float]], there: list[Outcome]) -> dict[str, object]:
    figures: dict[str, object] = {}
    over_http = [percentiles(each.answered) for each in there]
    for what in over_http[0]:
        differences = [theirs[what] - ours[what] for ours, theirs in zip(here, over_http, strict=True)]
        figures[f"{kind}_direct_{what}"] = round(statistics.median(each[what] for each in here), 2)
        figures[f"{kind}_http_{what}"] = round(statistics.median(each[what] for each in over_http), 2)
        figures[f"{kind}_difference_{what}"] = round(statistics.median(differences), 2)
        figures[f"{kind}_difference_{what}_max"] = round(max(differences), 2)
    return figures | {f"{kind}_failed": sum(each.failed() for each in there)}


def loaded(
    arguments: argparse.Namespace, kind: str, body: Callable[[], dict[str, object]], url: str
) -> dict[str, object]:
    """What many clients get out of it, and what arrivals at half that rate do."""
    closed = closed_loop(url, body, arguments.clients, arguments.seconds)
    opened = open_loop(url, body, 0.5 * closed.rate, arguments.seconds)
    named: dict[str, object] = {f"{kind}_closed_{what}": value for what, value in closed.figures().items()}
    return named | {f"{kind}_open_{what}": value for what, value in opened.figures().items()}


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "workspace/bench_search", 10.0)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
