"""Memory and time of training on N examples against N/10, of joining them, and of reading them by row.

Queries, judgments and a corpus of a tenth as many passages are written to a temporary workspace; then the library joins
them into examples and trains a tiny encoder on them with Ray Train for a few steps. Peaks are of memory that belongs to
the process alone: pages of a mapped file, which the system takes back at will, and Ray's shared memory do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from figures import show
from synthetic_workspace import write_corpus, write_queries

from cluster.drill.encoder import write_encoder
from pipeline.artifact import ArtifactWriter
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.records import TRAINING_EXAMPLE
from pipeline.stage import StageContext
from pipeline.training.encoder_learner import EncoderTrainee
from pipeline.training.example_store import ExampleStore
from pipeline.training.examples import example_rows
from pipeline.training.fit import fit
from pipeline.training.job import TrainingSet
from pipeline.training.join import Sources, as_tables
from pipeline.training.sampler import Dataset
from pipeline.workspace import Workspace

INTERVAL_S = 0.1
READS = 5_000


def main() -> None:
    arguments = parse_arguments()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    small, large = (run(arguments, rows) for rows in (arguments.rows // 10, arguments.rows))
    figures = {f"{name}_{size}": found[name] for name in large for size, found in (("tenth", small), ("whole", large))}
    show(arguments.json, figures)


def run(arguments: argparse.Namespace, rows: int) -> dict[str, float]:
    """One size in a process of its own, for memory once taken is not always given back."""
    command = [sys.executable, "-W", "ignore", __file__, "--measure", f"--rows={rows}", f"--steps={arguments.steps}"]
    root = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [*command, *(["--folder", arguments.folder] if arguments.folder else [])],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="rayriever-memory-", dir=arguments.folder) as folder:
        # Mapped files lie with the workspace: where /tmp is memory, they would be no proof of anything.
        tempfile.tempdir = folder
        write_encoder(Path(folder, "encoder"))
        recipe = Recipe.model_validate(
            {
                "workspace": f"{folder}/workspace",
                "corpus": {"path": folder},
                "encoder": {"model": f"{folder}/encoder"},
                "distill": {"epochs": 1, "loss": "infonce", "cpus_per_worker": 1},
                "ray": {"num_cpus": 2, "object_store_mb": 100},
            }
        )
        workspace = Workspace(recipe.workspace)
        inputs = {
            "corpus": write_corpus(workspace, arguments.rows),
            "queries": write_queries(workspace, arguments.rows),
        }
        ctx = StageContext(recipe, inputs, ArtifactWriter(workspace, "distill", "0"), workspace, Silent())
        return {"rows": arguments.rows, **join(ctx), **read(ctx), **train(ctx, arguments)}


def join(ctx: StageContext) -> dict[str, float]:
    with Peaks() as peaks:
        sources = Sources(ctx, (), graded=False, pairs=False)
        tables = as_tables(sources.examples(), lambda example: bool(example.labelled), ctx.out.outcomes, "excluded")
        rows = ctx.out.table("examples", tables, TRAINING_EXAMPLE)
    return {
        "join_seconds": round(peaks.seconds, 1),
        "join_rows_per_s": round(rows / peaks.seconds),
        "join_driver_peak_mb": round(peaks.driver_mb, 1),
        "join_driver_grown_mb": round(peaks.driver_mb - peaks.driver_before_mb, 1),
    }


def read(ctx: StageContext) -> dict[str, float]:
    with Peaks() as peaks:
        store = ExampleStore(ctx.workspace, ctx.out.parts("examples"), example_rows)
    chance = random.Random(0)
    rows = [chance.randrange(len(store)) for _ in range(READS)]
    began = time.perf_counter()
    for row in rows:
        store[row]
    return {
        "store_open_seconds": round(peaks.seconds, 1),
        "store_open_grown_mb": round(peaks.driver_mb - peaks.driver_before_mb, 1),
        "store_random_rows_per_s": round(READS / (time.perf_counter() - began)),
    }


def train(ctx: StageContext, arguments: argparse.Namespace) -> dict[str, float]:
    section = ctx.recipe.distill
    visited = Dataset(0, arguments.rows, weight=arguments.steps * section.batch_size / arguments.rows)
    with Peaks() as peaks:
        trainee = EncoderTrainee(ctx.recipe.encoder, None, section, None, None)
        fit(ctx, "distill", section, TrainingSet(ctx.out.parts("examples"), (visited,)), trainee)
    return {
        "train_steps": ctx.out.outcomes["steps"],
        "train_seconds": round(peaks.seconds, 1),
        "train_driver_peak_mb": round(peaks.driver_mb, 1),
        "train_worker_peak_mb": round(peaks.worker_mb, 1),
    }


class Peaks:
    """Context manager; afterwards the largest private memory of this process and of a Ray Train worker, in MB."""

    def __init__(self) -> None:
        self.driver_mb = self.worker_mb = self.seconds = 0.0
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Peaks:
        self.driver_before_mb = private_mb(psutil.Process())
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self._finished.set()
        self._thread.join()

    def _sample(self) -> None:
        driver = psutil.Process()
        last = False
        while not last:
            last = self._finished.wait(INTERVAL_S)
            self.driver_mb = max(self.driver_mb, private_mb(driver))
            for process in driver.children(recursive=True):
                self.worker_mb = max(self.worker_mb, private_mb(process, "RayTrainWorker"))


def private_mb(process: psutil.Process, named: str = "") -> float:
    try:
        if named and named not in " ".join(process.cmdline()):
            return 0.0
        memory = process.memory_info()
    except psutil.Error:  # ended meanwhile
        return 0.0
    return float(memory.rss - memory.shared) / 1e6


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--folder", help="where the temporary workspace goes; default: the system's")
    parser.add_argument("--measure", action="store_true", help="these rows alone, in this process")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
