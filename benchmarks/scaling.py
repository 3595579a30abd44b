"""How the stages grow: with the workers that share them, and with the passages of the corpus.

    python benchmarks/scaling.py workers --json            work per second of 1 and 2 workers
    python benchmarks/scaling.py growth --json             1,000 to 100,000 passages, and the exponents
    python benchmarks/scaling.py once 1000000 --json       every stage that needs no LLM: time, memory, spill
    python benchmarks/scaling.py predict 100000 --json     what a capacity plan says of a run, and the run
    python benchmarks/scaling.py foresee --json            capacity plans for 10^6 to 10^10 passages on ray_cluster.yaml

Passages are random words of Zipf frequencies about random topics; the encoder has two layers of random weights. What a
worker costs before it works (a process, its imports) is left out of work per second: it is what the larger of two
amounts takes longer than the smaller. An exponent is the slope of log time over log passages, least squares.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import yaml
from figures import show
from llm_fanout import stub

from cluster.capacity.calibrate import calibrate
from cluster.capacity.calibration import Sample
from cluster.capacity.nodes import NodeType, NodeTypes, read_node_types
from cluster.capacity.plan import plan_capacity
from cluster.capacity.simulation import Chances
from cluster.drill.encoder import write_encoder
from pipeline.artifact import Artifact
from pipeline.llm.complete import complete
from pipeline.llm.requests import Request, Sampling, tables
from pipeline.progress import Silent
from pipeline.ray_session import ensure_ray
from pipeline.recipe import CorpusSection, LlmSection, QueriesSection, RaySection, Recipe, load_recipe
from pipeline.runner import run
from pipeline.stage import Stage
from pipeline.workspace import Workspace

WORDS, TOPICS, TOPIC_WORDS, LENGTH = 30_000, 500, 300, 50
QUERIES = {"train": 400, "dev": 100, "test": 100}
DIMENSION = 128
SIZES = (1_000, 10_000, 100_000)
SAMPLES = (Sample(1_000, 32), Sample(8_000, 128))  # those of `rayriever calibrate`
FORESEEN = tuple(10**power for power in range(6, 11))
ENCODED, SEARCHED, ASKED = (10_000, 40_000), (4_000, 16_000), (400, 1600)
IN_FLIGHT = 16  # requests per worker: what one may send at a time bounds it, as a server's limit would


class Told(Silent):
    """A run's listener that says on the standard error where it is."""

    def reused(self, artifact: Artifact) -> None: ...

    def started(self, stage: Stage) -> Silent:
        return self

    def finished(self, artifact: Artifact) -> None:
        made = artifact.manifest
        print(f"{made.stage}: {made.seconds} s, {made.peak_memory_mb} MB", file=sys.stderr)


def write_collection(folder: Path, passages: int, queries: dict[str, int]) -> None:
    """In BEIR's format. A query is some words of the one passage that is relevant to it."""
    draw = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(draw.choice(letters, draw.integers(3, 10))) for _ in range(WORDS)])
    common = 1 / np.arange(1, WORDS + 1)
    topics = draw.integers(0, WORDS, (TOPICS, TOPIC_WORDS))
    total = sum(queries.values())
    about = dict(zip(draw.choice(passages, total, replace=False).tolist(), range(total), strict=True))
    asked: list[list[str]] = [[] for _ in range(total)]
    folder.mkdir(parents=True)
    with open(folder / "corpus.jsonl", "w") as out:
        for start in range(0, passages, 10_000):
            count = min(10_000, passages - start)
            general = draw.choice(WORDS, (count, LENGTH), p=common / common.sum())
            own = topics[draw.integers(0, TOPICS, count)[:, None], draw.integers(0, TOPIC_WORDS, (count, LENGTH))]
            chosen = np.where(draw.random((count, LENGTH)) < 0.5, own, general)
            for number, row in enumerate(words[chosen], start):
                out.write(json.dumps({"_id": f"p{number}", "title": "", "text": " ".join(row)}) + "\n")
                if number in about:
                    asked[about[number]] = [f"p{number}", " ".join(row[:8])]
    (folder / "qrels").mkdir()
    with open(folder / "queries.jsonl", "w") as out:
        for number, (_, text) in enumerate(asked):
            out.write(json.dumps({"_id": f"q{number}", "text": text}) + "\n")
    numbers = iter(range(total))
    for split, count in queries.items():
        rows = [f"q{number}\t{asked[number][0]}\t1\n" for number in (next(numbers) for _ in range(count))]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))


def recipe(folder: Path, passages: int, queries: dict[str, int] = QUERIES) -> Recipe:
    """Every stage of stage 1 without an LLM, on a collection that is written where it is not there yet."""
    if not (folder / "collection").exists():
        write_collection(folder / "collection", passages, queries)
        write_encoder(folder / "encoder", DIMENSION)
    values = {
        "workspace": str(folder / "workspace"),
        "corpus": {"path": str(folder / "collection")},
        "queries": {"generate": 0},
        "synthesis": {"max_queries": 0},
        "encoder": {"model": str(folder / "encoder"), "actors": 2, "cpus_per_actor": 1, "dtype": "float32"},
        "negatives": {},
        "teacher": {},
        "distill": {"loss": "infonce", "epochs": 1, "dtype": "float32", "max_tokens": 64, "learning_rate": 0.001},
        "tracking": {"folder": str(folder / "logs")},
        "ray": {"num_cpus": 2},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return load_recipe(folder / "recipe.yaml")


def costs(artifacts: dict[str, Artifact]) -> dict[str, dict[str, float]]:
    made = [artifact.manifest for artifact in artifacts.values()]
    return {
        each.stage: {"seconds": each.seconds, "peak_memory_mb": each.peak_memory_mb, "spilled_mb": each.spilled_mb}
        for each in made
    }


def once(arguments: argparse.Namespace) -> dict[str, Any]:
    with workplace(arguments) as folder:
        wanted = recipe(folder, arguments.passages)
        stages = costs(run(wanted, Told()))
        stored = sum(each.stat().st_size for each in (folder / "workspace").rglob("*") if each.is_file())
    return {
        "passages": arguments.passages,
        "stages": stages,
        "seconds": round(sum(each["seconds"] for each in stages.values()), 1),
        "peak_memory_mb": max(each["peak_memory_mb"] for each in stages.values()),
        "spilled_mb": round(sum(each["spilled_mb"] for each in stages.values()), 1),
        "object_store_mb": wanted.ray.object_store_mb,
        "stored_mb": round(stored / 1e6),
    }


def growth(arguments: argparse.Namespace) -> dict[str, Any]:
    seconds: dict[int, dict[str, list[float]]] = {size: {} for size in SIZES}
    for _ in range(arguments.repetitions):
        for size in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                for stage, cost in costs(run(recipe(Path(folder), size), Told())).items():
                    seconds[size].setdefault(stage, []).append(cost["seconds"])
    medians = {size: {stage: statistics.median(all_) for stage, all_ in seconds[size].items()} for size in SIZES}
    table = {
        stage: {
            "seconds": {size: medians[size][stage] for size in SIZES},
            "spread": {size: [min(seconds[size][stage]), max(seconds[size][stage])] for size in SIZES},
            "exponent": slope([medians[size][stage] for size in SIZES]),
        }
        for stage in medians[SIZES[0]]
    }
    return {"sizes": SIZES, "repetitions": arguments.repetitions, "stages": table}


def without_queries(given: Recipe, folder: Path) -> Recipe:
    """The recipe on the passages alone, of which queries are made, as a calibration makes them."""
    return given.model_copy(
        update={
            "corpus": CorpusSection(path=str(folder / "collection" / "corpus.jsonl")),
            "queries": QueriesSection(generate=sum(QUERIES.values()), kinds=("crop",)),
        }
    )


def foresee(arguments: argparse.Namespace) -> dict[str, Any]:
    """Workers as quick as those here, as many as the CPU nodes hold. A node costs 1 an hour: money is node-hours.

    The index is of coded lists in the samples, too, as large corpora get one.
    """
    nodes = read_node_types(Path(__file__).parents[1] / "ray_cluster.yaml", {"cpu": 1.0})
    cpu = next(each for each in nodes.types if each.name == "cpu")
    with workplace(arguments) as folder:
        wanted = without_queries(recipe(folder, SAMPLES[-1].passages), folder)
        wanted = wanted.model_copy(update={"index": wanted.index.model_copy(update={"kind": "ivf_pq"})})
        paces = calibrate(wanted, SAMPLES, Told())
        wanted = with_actors(wanted, int(cpu.most * cpu.resources["CPU"]))
        plans = [plan_capacity(wanted, NodeTypes((cpu,)), paces, size) for size in FORESEEN]
    return {
        "speeds": paces.speeds,
        "plans": [
            {
                "passages": plan.passages,
                "hours": round(plan.hours, 2),
                "hours_spread": None if plan.hours_spread is None else asdict(plan.hours_spread),
                "node_hours": None if plan.nodes_money is None else round(plan.nodes_money, 1),
                "storage_gb": round(plan.storage_gb, 1),
                "bottleneck": plan.bottleneck,
                "stage_hours": {each.stage: round(each.hours, 3) for each in plan.stages},
                "unmeasured": plan.unmeasured,
                "rough": plan.rough,
                "endless": plan.endless,
            }
            for plan in plans
        ],
    }


def predict(arguments: argparse.Namespace) -> dict[str, Any]:
    """On queries made from the passages, as a calibration makes them; this machine is the only node."""
    here = NodeTypes((NodeType("here", {"CPU": 2.0}, {}, most=1, price=0.0),))
    with workplace(arguments) as folder:
        wanted = without_queries(recipe(folder, arguments.passages), folder)
        paces = calibrate(wanted, SAMPLES, Told())
        plan = plan_capacity(wanted, here, paces, arguments.passages, Chances(boot_s=0, losses_per_hour=0))
        took = costs(run(wanted, Told()))
    stages = {
        each.stage: {"predicted_s": round(each.hours * 3600, 1), "took_s": took[each.stage]["seconds"]}
        for each in plan.stages
    }
    spread = plan.hours_spread
    assert spread is not None, "no node is lost here"
    return {
        "passages": arguments.passages,
        "stages": stages,
        "unmeasured": plan.unmeasured,
        "predicted_s": round(plan.hours * 3600),
        "eight_of_ten_s": [round(spread.low * 3600), round(spread.high * 3600)],
        "took_s": round(sum(each["seconds"] for each in took.values())),
        "took_of_these_stages_s": round(sum(each["took_s"] for each in stages.values())),
    }


def slope(seconds: list[float]) -> float:
    x = np.log10(SIZES)
    return round(float(np.polyfit(x, [math.log10(max(each, 0.01)) for each in seconds], 1)[0]), 3)


def workers(arguments: argparse.Namespace) -> dict[str, Any]:
    sides: dict[str, Callable[[Path, int], float]] = {"encode": encode, "mine": mine, "api": ask}
    found: dict[str, dict[int, list[float]]] = {name: {1: [], 2: []} for name in sides}
    with workplace(arguments) as folder:
        for repetition in range(arguments.repetitions):
            for name, side in sides.items():
                for count in (1, 2) if repetition % 2 else (2, 1):
                    found[name][count].append(side(folder, count))
                    print(name, count, found[name][count][-1], file=sys.stderr)
    figures: dict[str, Any] = {"repetitions": arguments.repetitions}
    for name, rates in found.items():
        one, two = (statistics.median(rates[count]) for count in (1, 2))
        figures[name] = {
            "per_s_1": round(one, 1),
            "per_s_2": round(two, 1),
            "ratio": round(two / one, 2),
            "spread_1": [round(min(rates[1]), 1), round(max(rates[1]), 1)],
            "spread_2": [round(min(rates[2]), 1), round(max(rates[2]), 1)],
        }
    return figures


def encode(folder: Path, actors: int) -> float:
    def seconds(size: int) -> float:
        wanted = with_actors(recipe(made(folder / f"encode-{size}"), size), actors)
        run(wanted, Told(), until="corpus")
        return run(wanted, Told(), start="encode_base", until="encode_base")["encode_base"].manifest.seconds

    return rate(ENCODED, seconds)


def mine(folder: Path, actors: int) -> float:
    def seconds(size: int) -> float:
        queries = {"train": size, "dev": 10, "test": 10}
        wanted = with_actors(recipe(made(folder / f"mine-{size}"), 20_000, queries), actors)
        run(wanted, Told(), until="index_base")
        return run(wanted, Told(), start="mine", until="mine")["mine"].manifest.seconds

    return rate(SEARCHED, seconds)


def ask(folder: Path, actors: int) -> float:
    """Of requests whose answers take a while, to a server that could answer more at once than both workers may ask."""

    def seconds(size: int) -> float:
        asked = (Request("question", [{"role": "user", "content": f"q {n}"}], Sampling(0, 9)) for n in range(size))
        with tempfile.TemporaryDirectory(dir=folder) as workspace, stub() as url:
            section = LlmSection(
                engine="openai", model="stub", base_url=url, concurrency=IN_FLIGHT, actors=actors, cpus_per_actor=1
            )
            ensure_ray(RaySection(num_cpus=2))
            for _ in complete(tables("stub", asked), section, Workspace(workspace), RaySection(), Silent(), "question"):
                pass
            with urlopen(f"{url}/counts") as answer:
                return float(json.load(answer)["seconds"])

    return rate(ASKED, seconds)


def rate(amounts: tuple[int, int], seconds: Callable[[int], float]) -> float:
    small, large = amounts
    return (large - small) / (seconds(large) - seconds(small))


def with_actors(recipe: Recipe, actors: int) -> Recipe:
    return recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"actors": actors})})


def made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def workplace(arguments: argparse.Namespace) -> Iterator[Path]:
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        yield arguments.folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(required=True)
    for measure in (workers, growth, once, predict, foresee):
        command = what.add_parser(measure.__name__)
        command.set_defaults(measure=measure)
        command.add_argument("--json", action="store_true")
    for name in ("workers", "growth"):
        what.choices[name].add_argument("--repetitions", type=int, default=3)
    for name in ("workers", "once", "predict", "foresee"):
        what.choices[name].add_argument("--folder", type=Path, help="Kept, and gone on with; default: a temporary one.")
    for name in ("once", "predict"):
        what.choices[name].add_argument("passages", type=int)
    arguments = parser.parse_args()
    show(arguments.json, arguments.measure(arguments))


if __name__ == "__main__":
    main()
