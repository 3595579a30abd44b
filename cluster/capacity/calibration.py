"""What a worker does per second in every stage, measured by running the recipe on two samples of its own corpus."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from cluster.capacity.work import Work, estimates, kind_of, work_of
from pipeline.corpus.readers import read
from pipeline.corpus.rows import Row
from pipeline.corpus.sources import locate
from pipeline.errors import RayrieverError
from pipeline.ray_session import ensure_ray
from pipeline.recipe import CorpusSection, Recipe
from pipeline.runner import Listener, run
from pipeline.workspace import Artifact, Workspace

VERSION = 1


@dataclass(frozen=True)
class Sample:
    """What is run once: so many passages of the corpus, and queries made from them."""

    passages: int
    queries: int


@dataclass(frozen=True)
class Pace:
    """Of a stage: `overhead_s`, once, and the seconds of one worker for one unit of work."""

    unit: str
    overhead_s: float
    worker_s_per_unit: float


@dataclass(frozen=True)
class Calibration:
    """Paces by stage; of stages that had nothing to do there is none."""

    paces: Mapping[str, Pace]
    samples: tuple[Sample, ...]

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
            return cls(paces, tuple(Sample(**each) for each in values["samples"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RayrieverError(
                f"calibration {path}: cannot be used ({error}). Make it: rayriever calibrate RECIPE --out {path}"
            ) from error


def calibrate(recipe: Recipe, samples: Sequence[Sample], listener: Listener) -> Calibration:
    """Run the recipe with one worker in each stage on each sample, in a workspace of its own.

    Its LLM is asked, and its budget holds for each sample. Raises RayrieverError where a run fails.
    """
    ensure_ray(recipe.ray)  # its start is no stage's
    seen: list[dict[str, tuple[Work, float]]] = []
    for sample in samples:
        with _sampled(recipe, sample) as small:
            made = run(small, listener)
            works = [_done(work, made[work.stage]) for work in work_of(small, estimates(small))]
            seen.append({work.stage: (work, made[work.stage].manifest.seconds) for work in works if work.amount})
    stages = [stage for stage in seen[-1] if all(stage in each for each in seen)]
    return Calibration({stage: _pace([each[stage] for each in seen]) for stage in stages}, tuple(samples))


def _done(work: Work, artifact: Artifact) -> Work:
    """As it was: how many requests there are is known only afterwards."""
    return replace(work, amount=artifact.manifest.llm.get("requests", 0)) if work.unit == "requests" else work


def _pace(points: Sequence[tuple[Work, float]]) -> Pace:
    """The line through the smallest and the largest sample; where it would fall, all time is the work's."""
    (small, early), (large, late) = points[0], points[-1]
    more = large.amount - small.amount
    each = (late - early) / more if more > 0 else 0.0
    overhead = late - each * large.amount
    if each <= 0 or overhead < 0:
        each, overhead = max(late, 0.01) / large.amount, 0.0
    return Pace(large.unit, round(overhead, 3), each)


@contextmanager
def _sampled(recipe: Recipe, sample: Sample) -> Iterator[Recipe]:
    """The recipe on the first passages of its corpus, in a folder below its workspace, which other nodes reach, too."""
    workspace = _below(recipe.workspace, f"calibration-{uuid.uuid4().hex[:8]}")
    with tempfile.TemporaryDirectory(prefix="rayriever-") as folder:
        path = Path(folder, "sample.jsonl")
        rows = (row for row in read(locate(recipe.corpus), recipe.corpus) if isinstance(row, Row))
        with path.open("w") as out:
            for row in islice(rows, sample.passages):
                out.write(json.dumps({"_id": row.passage_id, "title": row.title, "text": row.text}) + "\n")
        try:
            yield recipe.model_copy(update=_changes(recipe, sample, str(path), workspace))
        finally:
            Workspace(workspace).delete_folder()


def _below(uri: str, name: str) -> str:
    place, mark, options = uri.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


def _changes(recipe: Recipe, sample: Sample, corpus: str, workspace: str) -> dict[str, Any]:
    """What the sample's recipe has of its own: a corpus, queries made from it, few of everything, one worker each."""
    changes: dict[str, Any] = {
        "workspace": workspace,
        "corpus": CorpusSection(path=corpus, duplicates=recipe.corpus.duplicates),
        "queries": recipe.queries.model_copy(update={"path": None, "generate": sample.queries}),
        "index": recipe.index.model_copy(update={"shards": 1}),
    }
    few = {"preferences": "max_queries", "candidates": "max_queries"}
    alone = {name: "actors" for name in ("llm", "encoder", "sparse", "scorer")}
    alone |= {name: "workers" for name in ("distill", "align", "rerank")}
    for name, key in (few | alone).items():
        if (section := getattr(recipe, name)) is not None:
            changes[name] = section.model_copy(update={key: 1 if name in alone else sample.queries})
    return changes
