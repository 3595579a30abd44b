"""What a worker does per second in every stage, measured by running the recipe on two samples of its own corpus."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from cluster.capacity.work import Work, foreseen, kind_of, seen, work_of
from pipeline.corpus.readers import read
from pipeline.corpus.rows import Row
from pipeline.corpus.sources import locate
from pipeline.errors import RayrieverError
from pipeline.ray_session import ensure_ray
from pipeline.recipe import Recipe
from pipeline.runner import Listener, run
from pipeline.workspace import Artifact, Workspace

VERSION = 1
_NOISE_S, _NOISE_SHARE = 0.2, 0.1  # by which two equal runs of a stage may differ


@dataclass(frozen=True)
class Sample:
    """What is run once: so many passages of the corpus, and queries made from them."""

    passages: int
    queries: int


@dataclass(frozen=True)
class Pace:
    """Of a stage: `overhead_s`, once, and the seconds of one worker for one unit of work.

    Args:
        is_rough: the samples took the same time but for noise: seconds per unit are the most that they may be.
    """

    unit: str
    overhead_s: float
    worker_s_per_unit: float
    is_rough: bool = False


@dataclass(frozen=True)
class Calibration:
    """Paces by stage, and multiplications per second of one core; of stages that had nothing to do there is none."""

    paces: Mapping[str, Pace]
    samples: tuple[Sample, ...]
    products_per_s: float

    def pace(self, work: Work) -> Pace | None:
        """Of a stage of that name, or of another round of it, where its time grew with the same."""
        found = self.paces.get(work.stage) or self.paces.get(kind_of(work.stage))
        return found if found is not None and found.unit == work.unit else None

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Raises RayrieverError where the file is none that `to_json` has made."""
        try:
            values = json.loads(path.read_text())
            if values["version"] != VERSION:
                raise ValueError(f"version {values['version']}, not {VERSION}")
            paces = {stage: Pace(**pace) for stage, pace in values["paces"].items()}
            samples = tuple(Sample(**each) for each in values["samples"])
            return cls(paces, samples, float(values["products_per_s"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RayrieverError(
                f"calibration {path}: cannot be used ({error}). Make it: rayriever calibrate RECIPE --out {path}"
            ) from error


def calibrate(recipe: Recipe, samples: Sequence[Sample], listener: Listener) -> Calibration:
    """Run the recipe with one worker in each stage on each sample, in a workspace of its own.

    Its LLM is asked, and its budget holds for each sample. Samples of a smaller corpus are smaller in proportion.
    Raises RayrieverError where a run fails.
    """
    rows = _first(recipe, max(sample.passages for sample in samples))
    share = len(rows) / max(sample.passages for sample in samples)
    samples = [replace(each, passages=max(1, round(each.passages * share))) for each in samples]
    ensure_ray(recipe.ray)  # its start is no stage's
    points: list[dict[str, tuple[Work, float]]] = []
    for sample in samples:
        with _sampled(recipe, rows[: sample.passages], sample.queries) as small:
            made = run(small, listener)
            works = [_done(work, made[work.stage]) for work in work_of(small, seen(small))]
            points.append({work.stage: (work, made[work.stage].manifest.seconds) for work in works if work.amount})
    measured = {
        stage: pace
        for stage in points[-1]
        if all(stage in each for each in points) and (pace := _pace([each[stage] for each in points])) is not None
    }
    return Calibration(measured, tuple(samples), _products_per_s())


def _first(recipe: Recipe, count: int) -> list[Row]:
    rows = (row for row in read(locate(recipe.corpus), recipe.corpus) if isinstance(row, Row))
    return list(islice(rows, count))


def _done(work: Work, artifact: Artifact) -> Work:
    """As it was: how many requests there are is known only afterwards."""
    return replace(work, amount=artifact.manifest.llm.get("requests", 0)) if work.unit == "requests" else work


def _pace(points: Sequence[tuple[Work, float]]) -> Pace | None:
    """The line through the smallest and the largest sample; None where both had the same to do."""
    (small, early), (large, late) = points[0], points[-1]
    more = large.amount - small.amount
    if more <= 0:
        return None
    noise = max(_NOISE_S, _NOISE_SHARE * late)
    each = max(late - early, noise) / more
    return Pace(large.unit, round(max(late - each * large.amount, 0.0), 3), each, is_rough=late - early < noise)


def _products_per_s() -> float:
    """Of one core where tasks run, comparing vectors with centroids as an index of lists does; the best of a few."""
    import ray

    return float(ray.get(ray.remote(num_cpus=1)(_compare).remote()))


def _compare() -> float:
    import faiss
    import numpy as np

    faiss.omp_set_num_threads(1)
    vectors = np.random.default_rng(0).standard_normal((4096, 384), np.float32)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        index.search(vectors, 1)
        seconds.append(time.perf_counter() - began)
    return float(vectors.shape[0] * vectors.size / min(seconds))


@contextmanager
def _sampled(recipe: Recipe, rows: Sequence[Row], queries: int) -> Iterator[Recipe]:
    """The recipe on these passages, in a folder below its workspace, which other nodes reach, too."""
    workspace = _below(recipe.workspace, f"calibration-{uuid.uuid4().hex[:8]}")
    with tempfile.TemporaryDirectory(prefix="rayriever-") as folder:
        path = Path(folder, "sample.jsonl")
        with path.open("w") as out:
            for row in rows:
                out.write(json.dumps({"_id": row.passage_id, "title": row.title, "text": row.text}) + "\n")
        try:
            yield recipe.model_copy(update=_changes(recipe, queries, str(path), workspace))
        finally:
            Workspace(workspace).delete_folder()


def _below(uri: str, name: str) -> str:
    place, mark, options = uri.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


def _changes(recipe: Recipe, queries: int, corpus: str, workspace: str) -> dict[str, Any]:
    """What the sample's recipe has of its own: a corpus, queries made from it, few of everything, one worker each.

    Where the recipe has no LLM write queries, none writes these. Tables of the user's own are left out: they are as
    long in a sample as in the whole.
    """
    asks = foreseen(recipe)["queries"].llm_requests > 0
    read_again = {"path": corpus, "format": "auto", "id_field": None, "title_field": None, "text_field": None}
    made = {"path": None, "generate": queries} | ({} if asks else {"kinds": ("crop",)})
    changes: dict[str, Any] = {
        "workspace": workspace,
        "corpus": recipe.corpus.model_copy(update=read_again),
        "queries": recipe.queries.model_copy(update=made),
        "index": recipe.index.model_copy(update={"shards": 1, "lists": None}),
    }
    few: dict[str, dict[str, Any]] = {
        "preferences": {"max_queries": queries},
        "candidates": {"max_queries": queries},
        "distill": {"workers": 1, "datasets": ()},
        "align": {"workers": 1},
        "rerank": {"workers": 1},
        **{name: {"actors": 1} for name in ("llm", "encoder", "sparse", "scorer")},
    }
    for name, values in few.items():
        if (section := getattr(recipe, name)) is not None:
            changes[name] = section.model_copy(update=values)
    return changes
