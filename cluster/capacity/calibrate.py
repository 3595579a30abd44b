"""The recipe run on two samples of its own corpus, and what that says of every stage's pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from cluster.capacity.calibration import Calibration, Pace, Sample, deciding_values
from cluster.capacity.sample import sampled
from cluster.capacity.speeds import measure_speeds
from cluster.capacity.work import Work, foreseen, seen, work_of
from pipeline.artifact import Artifact
from pipeline.corpus.readers import read
from pipeline.corpus.rows import Row
from pipeline.corpus.sources import locate
from pipeline.errors import RayrieverError
from pipeline.ray_session import ensure_ray
from pipeline.recipe import Recipe
from pipeline.runner import Listener, run

_NOISE_S, _NOISE_SHARE = 0.2, 0.1  # by which two equal runs of a stage may differ


def calibrate(recipe: Recipe, samples: Sequence[Sample], listener: Listener) -> Calibration:
    """Run the recipe with one worker in each stage on each sample, in a workspace of its own.

    Its LLM is asked, and its budget holds for each sample. Samples of a smaller corpus are smaller in proportion.
    Raises RayrieverError where a run fails, and for an LLM whose answers come as files, at a time of its own.
    """
    if recipe.llm.engine == "batch" and any(each.llm_requests for each in foreseen(recipe).values()):
        raise RayrieverError(
            "calibrate: llm.engine batch has no pace that two samples could show. Measure the other stages with "
            "--set llm.engine=openai and a server of your own; files of requests take as long as their API says."
        )
    rows = _first(recipe, max(sample.passages for sample in samples))
    share = len(rows) / max(sample.passages for sample in samples)
    samples = [replace(each, passages=max(1, round(each.passages * share))) for each in samples]
    ensure_ray(recipe.ray)  # its start is no stage's
    points: list[dict[str, tuple[Work, float]]] = []
    for sample in samples:
        with sampled(recipe, rows[: sample.passages], sample.queries) as small:
            made = run(small, listener)
            works = [_done(work, made[work.stage]) for work in work_of(small, seen(small))]
            points.append({work.stage: (work, made[work.stage].manifest.seconds) for work in works if work.amount})
    measured = {
        stage: pace
        for stage in points[-1]
        if all(stage in each for each in points) and (pace := pace_of([each[stage] for each in points])) is not None
    }
    values = {stage: each for stage, each in deciding_values(recipe).items() if stage in measured}
    speeds = measure_speeds([f"{row.title} {row.text}" for row in rows], recipe.lexical)
    return Calibration(measured, tuple(samples), speeds, values)


def _first(recipe: Recipe, count: int) -> list[Row]:
    rows = (row for row in read(locate(recipe.corpus), recipe.corpus) if isinstance(row, Row))
    return list(islice(rows, count))


def _done(work: Work, artifact: Artifact) -> Work:
    """As it was: whether the LLM was asked, and how often, is known only afterwards."""
    requests = artifact.manifest.llm.get("requests", 0)
    return replace(work, unit="requests", amount=requests) if requests or work.unit == "requests" else work


def pace_of(points: Sequence[tuple[Work, float]]) -> Pace | None:
    """The line through the smallest and the largest sample; None where both had the same to do."""
    (small, early), (large, late) = points[0], points[-1]
    more = large.amount - small.amount
    if more <= 0:
        return None
    noise = max(_NOISE_S, _NOISE_SHARE * late)
    each = max(late - early, noise) / more
    return Pace(large.unit, round(max(late - each * large.amount, 0.0), 3), each, is_rough=late - early < noise)
