"""Training tokens per second and peak memory of our step against SentenceTransformerTrainer.

Same model, texts, batches, loss, optimiser and precision (bfloat16 autocast); counted are tokens without padding, and
every step but the first. Each measurement is a process of its own; the sides take turns, the order swapped every
repetition. Quoted are medians, and the ratios of pairs measured in the same repetition.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import show

SIDE = Path(__file__).with_name("training_side.py")
HIGHEST_LOSS_DIFFERENCE = 1e-3
BFLOAT16 = {"torch.bfloat16, gradient True", "torch.bfloat16, gradient False"}

Measurements = dict[str, list[dict[str, Any]]]


def main() -> None:
    arguments = parse_arguments()
    small = ["--batch-size", arguments.batch_size, "--steps", arguments.steps]
    large = ["--batch-size", arguments.large_batch_size, "--steps", arguments.large_steps]
    common = ["--threads", arguments.threads]
    ours = [*common, "--tokens-per-batch", arguments.tokens_per_batch]
    difference = run("losses", "--batch-size", arguments.batch_size, *common)["loss_difference"]
    if difference > HIGHEST_LOSS_DIFFERENCE:
        raise SystemExit(f"The two do not compute the same loss: they differ by {difference}.")
    small_sides = {
        "ours": ["ours", *small, *ours],
        "ours_least_memory": ["ours_least_memory", *small, *ours],
        "peer": ["peer", *small, *common],
    }
    large_sides = {"ours": ["ours", *large, *ours], "ours_least_memory": ["ours_least_memory", *large, *ours]}
    for size in arguments.mini_batch_sizes:
        large_sides[f"peer_mini_batch_{size}"] = ["peer", *large, *common, "--mini-batch-size", size]
    figures: dict[str, Any] = {
        "batch_size": arguments.batch_size,
        "large_batch_size": arguments.large_batch_size,
        "threads": arguments.threads,
        "repetitions": arguments.repetitions,
        "loss_difference": difference,
        **named("batch", summarise(measure(small_sides, arguments.repetitions))),
        **named("large_batch", summarise(measure(large_sides, arguments.repetitions))),
    }
    for package in ("torch", "sentence-transformers", "transformers"):
        figures[package] = importlib.metadata.version(package)
    show(arguments.json, figures)


def measure(sides: Mapping[str, Sequence[object]], repetitions: int) -> Measurements:
    found: Measurements = {name: [] for name in sides}
    for repetition in range(repetitions):
        for name in list(sides) if repetition % 2 else list(sides)[::-1]:
            figures = run(*sides[name])
            if not BFLOAT16.issuperset(figures["precisions"]):
                raise SystemExit(f"{name} does not compute in bfloat16 throughout: {figures['precisions']}.")
            found[name].append(figures)
    return found


def run(*arguments: object) -> dict[str, Any]:
    """One measurement. The parent imports no torch: a child's peak memory would start with its parent's."""
    command = [sys.executable, "-W", "ignore", str(SIDE), *map(str, arguments)]
    root = os.pathsep.join(filter(None, (str(SIDE.parents[1]), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def summarise(found: Measurements) -> dict[str, float]:
    """Per side: medians, and slowest and fastest; against every peer: ratio of ours."""
    figures = {}
    for name, runs in found.items():
        rates = [each["tokens_per_second"] for each in runs]
        figures[f"{name}_tokens_per_s"] = round(statistics.median(rates), 1)
        figures[f"{name}_tokens_per_s_min"] = round(min(rates), 1)
        figures[f"{name}_tokens_per_s_max"] = round(max(rates), 1)
        for figure in ("tokens_per_cpu_second", "peak_mb", "peak_above_model_mb"):
            figures[f"{name}_{figure}"] = round(statistics.median(each[figure] for each in runs), 1)
    for peer in (name for name in found if name.startswith("peer")):
        for name in (name for name in found if name.startswith("ours")):
            pairs = list(zip(found[name], found[peer], strict=True))
            speeds = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs]
            figures[f"{name}_to_{peer}_speed"] = round(statistics.median(speeds), 2)
            figures[f"{name}_to_{peer}_speed_min"] = round(min(speeds), 2)
            figures[f"{name}_to_{peer}_speed_max"] = round(max(speeds), 2)
            memory = statistics.median(a["peak_above_model_mb"] / b["peak_above_model_mb"] for a, b in pairs)
            figures[f"{name}_to_{peer}_memory_above_model"] = round(memory, 2)
    return figures


def named(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in figures.items()}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--large-batch-size", type=int, default=512)
    parser.add_argument("--large-steps", type=int, default=2)
    parser.add_argument("--tokens-per-batch", type=int, default=2048, help="of our micro-batches")
    parser.add_argument("--mini-batch-sizes", type=int, nargs="+", default=[32, 8], help="of the peer's cached loss")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
