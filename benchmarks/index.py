"""Our sharded index against plain in-process FAISS, side by side in one run; how both grow with the corpus.

    python benchmarks/index.py --json                      100,000 and 1,000,000 vectors: search, recall, memory, build
    python benchmarks/index.py --growth --json             100,000 to 3,000,000: time and memory

Vectors are unit vectors of 384 dimensions around topics of very unequal size, as those of texts are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa

from pipeline import records
from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.encoder.identity import EncoderIdentity
from pipeline.index.build import build_index
from pipeline.index.search import ShardedIndex, folder_of
from pipeline.index.tuning import recall
from pipeline.progress import Silent
from pipeline.ray_session import ensure_ray
from pipeline.recipe import IndexSection, RaySection, Recipe
from pipeline.sharded.folder import VECTORS
from pipeline.stage import StageContext
from pipeline.workspace import Workspace

Vectors = npt.NDArray[np.float32]

DIMENSION, TOPICS, BLOCK, PART = 384, 4000, 50_000, 2_500
BATCH, K, SHARDS = 1024, 100, 2
REPETITIONS, SINGLES = 5, 60
# Python, Ray, pyarrow, FAISS: what a builder of a hundred vectors has
IDLE_BUILDER_MB = 235
ABOUT = {"inputs": {}, "section": {}, "code_version": "", "finished_at": "", "seconds": 0.0, "peak_memory_mb": 0.0}


def mixture(rows: int, seed: int) -> Vectors:
    """Topics of Zipf sizes; within a topic a text differs along few directions, and a little along all."""
    shape = np.random.default_rng(1)
    centres = shape.normal(size=(TOPICS, DIMENSION)).astype(np.float32)
    directions = shape.normal(size=(64, DIMENSION)).astype(np.float32)
    weights = 1 / np.arange(1, TOPICS + 1) ** 0.8
    draw = np.random.default_rng(seed)
    topics = draw.choice(TOPICS, rows, p=weights / weights.sum())
    noise = draw.standard_normal((rows, 64), np.float32) @ directions / 8
    vectors = centres[topics] + 0.6 * noise + 0.3 * draw.standard_normal((rows, DIMENSION), np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def blocks(rows: int) -> Iterator[Vectors]:
    for start in range(0, rows, BLOCK):
        yield mixture(min(BLOCK, rows - start), seed=1000 + start)


def encoded(workspace: Workspace, rows: int) -> Artifact:
    """The vectors as the encode stage leaves them."""
    if (there := Artifact.find(workspace, "encode_base", "vectors")) is not None:
        return there
    out, schema = ArtifactWriter(workspace, "encode_base", "vectors"), records.vector_schema(DIMENSION)

    def parts() -> Iterator[pa.Table]:
        start = 0
        for block in blocks(rows):
            ids = pa.array([f"{n * 2_654_435_761 % 2**32:010d}" for n in range(start, start + len(block))])
            column = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), DIMENSION)
            whole = pa.Table.from_arrays([ids, column], schema=schema)
            yield from (whole.slice(low, PART) for low in range(0, len(block), PART))
            start += len(block)

    out.table("vectors", parts(), schema)
    with out.directory("encoder") as folder:
        (folder / "encoder.json").write_text(json.dumps(asdict(EncoderIdentity("w", "", "", 0, DIMENSION))))
    return out.commit(**ABOUT)


class Memory:
    """Resident memory of processes, in MB: what they have of their own, and pages of files."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids

    def now(self) -> dict[str, float]:
        found = {"own": 0.0, "file": 0.0}
        for pid in self.pids:
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            found["own"] += int(status["RssAnon"].split()[0]) / 1000
            found["file"] += int(status["RssFile"].split()[0]) / 1000
        return found


def build(source: Artifact, **section: Any) -> tuple[Artifact, dict[str, Any]]:
    """Run the index stage; seconds, bytes, and the peak of a builder over the bytes that it writes."""
    workspace = source.workspace
    values = {"workspace": workspace.uri, "corpus": {"path": "x"}, "index": section}
    out = ArtifactWriter(workspace, "index_base", "-".join(f"{k}-{v}" for k, v in section.items()))
    started = time.monotonic()
    with BuilderPeak() as peak:
        context = StageContext(Recipe.model_validate(values), {"encode_base": source}, out, workspace, Silent())
        build_index(context, "encode_base")
    artifact = out.commit(**ABOUT)
    generation = folder_of(artifact).current()
    shard_mb = max(sum(f.bytes for f in shard.files.values()) for shard in generation.shards[VECTORS]) / 1e6
    return artifact, {
        "seconds": round(time.monotonic() - started, 1),
        "shards": len(generation.shards[VECTORS]),
        "megabytes": round(generation.bytes / 1e6),
        "bytes_per_vector": round(generation.bytes / generation.rows(VECTORS)),
        "builder_peak_mb": round(peak.above_idle_mb),
        "builder_peak_per_index": round(peak.above_idle_mb / shard_mb, 2),
        "recall_when_tuned": generation.about["recall"],
        "effort": generation.about["effort"],
    }


class BuilderPeak:
    """The largest resident memory of a process that runs a `build` task, above that of one with its imports alone."""

    def __enter__(self) -> BuilderPeak:
        import threading

        self.above_idle_mb = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                try:
                    name, resident = process.cmdline()[0], process.memory_info().rss / 1e6
                except (psutil.Error, IndexError):
                    continue
                if name == "ray::build":
                    self.above_idle_mb = max(self.above_idle_mb, resident - IDLE_BUILDER_MB)


def interleaved(sides: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each side, run in turn, the first one changing."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for repetition in range(repetitions):
        order = list(sides) if repetition % 2 == 0 else list(reversed(sides))
        for name in order:
            started = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": round(median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def actor_memory(index: ShardedIndex) -> Memory:
    return Memory([pid for replicas in index.shards.wait_until_ready() for pid in replicas])


def ids(index: ShardedIndex, queries: Vectors, k: int) -> list[list[str]]:
    return [[hit.passage_id for hit in hits] for hits in index.search(queries, k)]


def compare(rows: int, folder: Path) -> dict[str, Any]:
    """(a) batch search, (b) single queries, (c) ivf_pq with exact scores, (d) builds."""
    source = encoded(Workspace(str(folder / str(rows))), rows)
    queries = mixture(BATCH, seed=7)
    flat, flat_build = build(source, kind="flat", shards=SHARDS)
    coarse, coarse_build = build(source, kind="ivf_pq", shards=SHARDS)
    exact, flat_figures = compare_flat(flat, rows, queries)
    pq_figures = compare_coarse(coarse, queries, exact)
    memory = [sum(each["memory_mb"]["searching"].values()) for each in (pq_figures, flat_figures)]
    return {
        "vectors": rows,
        "build": {"flat": flat_build, "ivf_pq": coarse_build},
        "flat": flat_figures,
        "ivf_pq": pq_figures,
        "killed_shard": recovery(flat, queries[:1]),
        "ivf_pq_over_flat_memory": round(memory[0] / memory[1], 3),
        "ivf_pq_over_flat_rate": round(pq_figures["queries_per_s"]["median"] / flat_figures["top_10_queries_per_s"], 1),
    }


def compare_flat(flat: Artifact, rows: int, queries: Vectors) -> tuple[list[list[str]], dict[str, Any]]:
    """Our actors and plain FAISS in turn; the true top 10."""
    plain = faiss.IndexFlatIP(DIMENSION)
    for block in blocks(rows):
        plain.add(block)
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    with ShardedIndex(folder_of(flat), IndexSection()) as index:
        memory = actor_memory(index)
        before = memory.now()
        sides = {"plain": lambda: plain.search(queries, K), "ours": lambda: index.search(queries, K)}
        batch = interleaved(sides, REPETITIONS)
        turn = itertools.cycle(queries[:, None])
        sides = {"plain": lambda: plain.search(next(turn), K), "ours": lambda: index.search(next(turn), K)}
        one = interleaved(sides, SINGLES)
        started = time.perf_counter()
        exact = ids(index, queries, 10)
        rate = len(queries) / (time.perf_counter() - started)
        return exact, {
            "batch_over_plain": spread([a / b for a, b in zip(batch["plain"], batch["ours"], strict=True)]),
            "batch_queries_per_s": {name: spread([BATCH / s for s in values]) for name, values in batch.items()},
            "single_ms_p50": {name: round(median(values) * 1000, 2) for name, values in one.items()},
            "top_10_queries_per_s": round(rate, 1),
            "memory_mb": {"idle": before, "searching": memory.now()},
        }


def recovery(artifact: Artifact, query: Vectors) -> dict[str, Any]:
    """Kill the actor of a shard under a stream of single queries with a deadline; until answers are whole again."""
    with ShardedIndex(folder_of(artifact), IndexSection(), timeout_s=0.5) as index:
        while (answer := next(index.answers(query, 10))).partial:
            continue  # still opening
        whole = answer.found.hits()
        pid = index.shards.wait_until_ready()[0][0]
        os.kill(pid, signal.SIGKILL)
        killed, partial = time.perf_counter(), 0
        while (answer := next(index.answers(query, 10))).partial:
            partial += 1
        seconds = round(time.perf_counter() - killed, 2)
        return {"seconds": seconds, "partial_answers": partial, "wrong": answer.found.hits() != whole}


def compare_coarse(coarse: Artifact, queries: Vectors, exact: list[list[str]]) -> dict[str, Any]:
    with ShardedIndex(folder_of(coarse), IndexSection()) as index:
        memory = actor_memory(index)
        before = memory.now()
        rates, peaks, found = [], [], list[list[str]]()
        for _ in range(REPETITIONS + 1):
            started = time.perf_counter()
            found = ids(index, queries, 10)
            rates.append(len(queries) / (time.perf_counter() - started))
            peaks.append(memory.now())
        started = time.perf_counter()
        for query in queries[:SINGLES]:
            index.search(query[None], 10)
        single = (time.perf_counter() - started) / SINGLES * 1000
        return {
            "recall_at_10": round(recall(exact, found), 4),
            "queries_per_s": spread(rates[1:]),
            "single_ms": round(single, 2),
            "memory_mb": {"idle": before, "searching": max(peaks, key=lambda each: sum(each.values()))},
        }


def growth(sizes: list[int], folder: Path) -> list[dict[str, Any]]:
    """(e) build and search of flat and ivf_pq for ever more vectors."""
    table = []
    for rows in sizes:
        source = encoded(Workspace(str(folder / str(rows))), rows)
        queries = mixture(256, seed=7)
        for kind in ("flat", "ivf_pq"):
            artifact, figures = build(source, kind=kind)
            with ShardedIndex(folder_of(artifact), IndexSection()) as index:
                pids = [pid for replicas in index.shards.wait_until_ready() for pid in replicas]
                index.search(queries, 10)
                started = time.perf_counter()
                index.search(queries, 10)
                rate = len(queries) / (time.perf_counter() - started)
                memory = Memory(pids).now()
            row = {"vectors": rows, "kind": kind, **figures}
            table.append(row | {"queries_per_s": round(rate, 1), "search_memory_mb": round(sum(memory.values()))})
            Workspace(str(folder / str(rows))).delete_folder("stages", "index_base")
        Workspace(str(folder)).delete_folder(str(rows))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default=None, help="Vectors, comma-separated.")
    parser.add_argument("--growth", action="store_true", help="Build and search ever more vectors instead.")
    parser.add_argument("--folder", default=None, help="Keep the vectors here.")
    parser.add_argument("--json", action="store_true", help="Print one JSON document.")
    arguments = parser.parse_args()
    default = "100000,300000,1000000,3000000" if arguments.growth else "100000,1000000"
    sizes = [int(size) for size in (arguments.sizes or default).split(",")]
    ensure_ray(RaySection())
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory(prefix="rayriever-index-") as temporary:
        folder = Path(arguments.folder or temporary)
        result = growth(sizes, folder) if arguments.growth else [compare(size, folder) for size in sizes]
    print(json.dumps(result, indent=1 if arguments.json else None))


if __name__ == "__main__":
    main()
