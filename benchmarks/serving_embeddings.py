"""Requests per second and latencies of /v1/embeddings: our server, infinity, and FastAPI + sentence-transformers.

All run at once on this machine with the same weights, and take turns at the load, the order swapped every repetition.
Quoted are medians, and the ratio of each repetition to the better peer in it. infinity has an environment of its own:
python -m venv DIR && DIR/bin/pip install 'infinity-emb[torch,server]' 'transformers<4.49' 'optimum<2'
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from figures import show
from load import Outcome, closed_loop, open_loop
from served import Sampler, free_port, memory_mb, parser_of, publishable, rayriever, running

from pipeline.models import locate
from pipeline.recipe import EncoderSection

OURS = "rayriever"
# Words of a text, and texts of a request
KINDS = {"query": ((4, 12), 1), "passages": ((60, 120), 8)}
_TEXTS = 500


def main() -> None:
    arguments = parse_arguments()
    with ExitStack() as stack:
        servers = start(stack, arguments)
        figures: dict[str, object] = {"clients": arguments.clients, "seconds": arguments.seconds}
        for kind in arguments.kinds:
            figures |= measure(arguments, kind, {name: url for name, (url, _) in servers.items()})
        for name, (_, process) in servers.items():
            figures[f"{name}_memory_mb"] = memory_mb(process)
    show(arguments.json, figures)


def start(stack: ExitStack, arguments: argparse.Namespace) -> dict[str, tuple[str, psutil.Process]]:
    """URL and process of every server."""
    folder = locate(EncoderSection().model).path_or_name  # as it was published: older libraries must read it
    recipe, plain = publishable(arguments.workspace, 1000), str(Path(__file__).with_name("plain_server.py"))
    ports = {name: free_port() for name in (OURS, "infinity", "plain")}
    commands = {
        OURS: ([*rayriever("serve", recipe, arguments.set), "--port", str(ports[OURS])], "/readyz"),
        "plain": ([sys.executable, plain, folder, str(ports["plain"])], "/docs"),
    }
    if arguments.infinity:
        options = ["--model-id", folder, "--device", "cpu", "--engine", "torch", "--url-prefix", "/v1"]
        commands["infinity"] = ([arguments.infinity, "v2", *options, "--port", str(ports["infinity"])], "/health")
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_LOG_LEVEL": "error"}
    return {
        name: (
            f"http://127.0.0.1:{ports[name]}/v1/embeddings",
            stack.enter_context(running(command, ports[name], ready, **quiet)),
        )
        for name, (command, ready) in commands.items()
    }


def measure(arguments: argparse.Namespace, kind: str, urls: dict[str, str]) -> dict[str, object]:
    bodies = {name: sampled(kind, OURS if name == OURS else "model") for name in urls}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in urls}
    for name, url in urls.items():
        warm = closed_loop(url, bodies[name], arguments.clients, arguments.seconds / 2)
        if set(warm.statuses) != {200}:
            raise SystemExit(f"{name}: answers with {dict(warm.statuses)}")
    for repetition in range(arguments.repetitions):
        for name in list(urls) if repetition % 2 else list(urls)[::-1]:
            outcomes[name].append(closed_loop(urls[name], bodies[name], arguments.clients, arguments.seconds))
    figures = compared(kind, outcomes)
    # At a rate that every server can bear, latencies say more than at its limit.
    rate = 0.5 * min(statistics.median(each.rate for each in of) for of in outcomes.values())
    figures[f"{kind}_open_per_s"] = round(rate, 1)
    for name, url in urls.items():
        found = open_loop(url, bodies[name], rate, arguments.seconds).figures()
        figures |= {f"{kind}_open_{name}_{what}": value for what, value in found.items() if what != "per_s"}
    return figures


def sampled(kind: str, model: str) -> Callable[[], Any]:
    (least, most), count = KINDS[kind]
    sampler, chance = Sampler(1), random.Random(2)
    texts = [sampler.text(least, most) for _ in range(_TEXTS)]
    return lambda: {"input": chance.sample(texts, count), "model": model}


def compared(kind: str, outcomes: dict[str, list[Outcome]]) -> dict[str, object]:
    figures: dict[str, object] = {}
    for name, of in outcomes.items():
        for what in of[0].figures():
            values = [each.figures()[what] for each in of]
            figures[f"{kind}_{name}_{what}"] = round(statistics.median(values), 2)
    peers = [name for name in outcomes if name != OURS]
    rates, tails = [], []
    for place, ours in enumerate(outcomes[OURS]):
        rates.append(ours.rate / max(outcomes[name][place].rate for name in peers))
        tails.append(ours.figures()["p95_ms"] / min(outcomes[name][place].figures()["p95_ms"] for name in peers))
    for what, ratios in (("rate", rates), ("p95", tails)):
        figures[f"{kind}_{what}_ratio_median"] = round(statistics.median(ratios), 2)
        figures[f"{kind}_{what}_ratio_min"] = round(min(ratios), 2)
        figures[f"{kind}_{what}_ratio_max"] = round(max(ratios), 2)
    return figures


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "workspace/bench_serving", 10.0)
    parser.add_argument("--infinity", help="The infinity_emb command of its environment; without it, it is left out.")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
