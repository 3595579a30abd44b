"""Run every arm with every seed, measure what comes of it, write the comparison. An arm that fails loses no other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pipeline.ablation import markdown
from pipeline.ablation.arms import FIRST_STAGE, Arm, arms_of
from pipeline.ablation.compare import System, best_on_dev, rows_of
from pipeline.ablation.measure import (
    Judged,
    Trial,
    judged_queries,
    measure_encoder,
    measure_first_stage,
    measure_lexical,
    measure_reranked,
)
from pipeline.ablation.result import Ablation, SplitQueries
from pipeline.artifact import Artifact
from pipeline.encoder.systems import ALIGNED, BASE, TUNED
from pipeline.errors import RayrieverError
from pipeline.evaluation.stage import BM25
from pipeline.progress import Silent
from pipeline.queries.read import EVALUATED
from pipeline.recipe import Recipe
from pipeline.runner import Listener, finished_artifacts, run
from pipeline.workspace import Workspace, explained_write_errors

Announce = Callable[[str], None]  # told which training comes next
# A recipe brought as far as it goes: what is finished, and why there is no more.
_Measure = Callable[[Recipe, Mapping[str, Artifact], str], Trial | None]  # of one of an arm's rows
_Reach = Callable[[int, Recipe], tuple[Mapping[str, Artifact], str | None]]


def ablate(recipe: Recipe, listener: Listener, announce: Announce, chosen: Sequence[str] = ()) -> Ablation:
    """Train and measure the arms; write ablation.md and ablation.json into the workspace.

    Stages that arms have in common run once. Of arms that are not `chosen` (all are, when none is named),
    what is finished is shown. What goes wrong in an arm is kept in its rows' `errors`.

    Raises RayrieverError for a section `ablate` that cannot be used, before anything runs, and where the
    recipe itself does not reach its base index.
    """
    arms = arms_of(recipe)
    _check_chosen(arms, chosen)
    reranks = recipe.rerank is not None
    shared = run(recipe, listener, until=_newest_index(recipe) if reranks else "index_base")
    judged = judged_queries(shared)
    base = measure_encoder(recipe, shared, judged)
    assert base is not None, "its index is there"
    systems = [System(BM25, False, (measure_lexical(recipe, shared, judged),)), System(BASE, False, (base,))]
    measure: _Measure = partial(_encoder, judged)
    if reranks:
        first = measure_first_stage(recipe, shared, judged, arms[0].depth)
        systems.append(System(FIRST_STAGE, False, (first,)))
        measure = partial(_reranker, judged, first, arms[0].depth)
    not_run = list[str]()
    for number, arm in enumerate(arms, start=1):
        wanted = not chosen or arm.name in chosen
        announcement = f"arm {number} of {len(arms)}, {arm.name}"
        found = _systems(arm, measure, _running(arm, listener, announce, announcement) if wanted else _finished)
        systems += [each for each in found if wanted or each.trials]
        not_run += [each.name for each in found if not (wanted or each.trials)]
    result = _compared(recipe, systems, judged, not_run)
    _publish(Workspace(recipe.workspace), result)
    return result


def _encoder(judged: Judged, recipe: Recipe, artifacts: Mapping[str, Artifact], encoder: str) -> Trial | None:
    return measure_encoder(recipe, artifacts, judged, encoder)


def _reranker(
    judged: Judged, first: Trial, depth: int, recipe: Recipe, artifacts: Mapping[str, Artifact], _: str
) -> Trial | None:
    return measure_reranked(recipe, artifacts, judged, first, depth, Silent())


def _newest_index(recipe: Recipe) -> str:
    return "index_tuned" if recipe.align is None else "index_aligned"


def _check_chosen(arms: Sequence[Arm], chosen: Sequence[str]) -> None:
    names = [arm.name for arm in arms]
    for name in chosen:
        if name not in names:
            raise RayrieverError(f"ablate: there is no arm {name!r}; there are {', '.join(names)}.")


def _running(arm: Arm, listener: Listener, announce: Announce, announcement: str) -> _Reach:
    def reach(seed: int, recipe: Recipe) -> tuple[Mapping[str, Artifact], str | None]:
        announce(f"{announcement}, seed {seed}")
        try:
            return run(recipe, listener, until=arm.until), None
        except Exception as error:  # whatever it is, the other arms still have something to say
            return _finished(seed, recipe)[0], _told(error)

    return reach


def _finished(seed: int, recipe: Recipe) -> tuple[Mapping[str, Artifact], str | None]:
    try:
        return finished_artifacts(recipe, Workspace(recipe.workspace)), None
    except (RayrieverError, OSError):
        return {}, None


def _systems(arm: Arm, measure: _Measure, reach: _Reach) -> list[System]:
    """The rows of an arm: a seed has a trial or an error in each of them, or was never run."""
    trials: dict[str, list[Trial]] = {what: [] for what in arm.rows}
    errors: dict[str, list[str]] = {what: [] for what in arm.rows}
    for seed, recipe in arm.recipes.items():
        artifacts, failure = reach(seed, recipe)
        for what in arm.rows:
            trial, fault = _measured(recipe, artifacts, what, measure)
            if trial is not None:
                trials[what].append(trial)
            elif fault or failure:
                errors[what].append(f"seed {seed}: {fault or failure}")
    return [
        System(row, True, tuple(trials[each]), tuple(errors[each]), arm.rows[TUNED] if each == ALIGNED else None)
        for each, row in arm.rows.items()
    ]


def _measured(
    recipe: Recipe, artifacts: Mapping[str, Artifact], what: str, measure: _Measure
) -> tuple[Trial | None, str | None]:
    try:
        return measure(recipe, artifacts, what), None
    except Exception as error:  # as in `_running`
        return None, _told(error)


def _told(error: Exception) -> str:
    if isinstance(error, (RayrieverError, OSError)):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"


def _compared(recipe: Recipe, systems: Sequence[System], judged: Judged, not_run: Sequence[str]) -> Ablation:
    section, evaluation = recipe.ablate, recipe.evaluate
    assert section is not None, "checked with the arms"
    splits = [
        SplitQueries(s, len(ids), len(judged.unseen.intersection(ids))) for s in EVALUATED if (ids := judged.of(s))
    ]
    names = [each.split for each in splits]
    rows = rows_of(systems, judged, names, section.reference, evaluation.resamples, recipe.seed)
    return Ablation(
        title=recipe.corpus.path,
        seeds=section.seeds,
        reference=section.reference,
        splits=tuple(splits),
        rows=rows,
        best=best_on_dev(rows, len(section.seeds)),
        not_run=tuple(not_run),
    )


def _publish(workspace: Workspace, result: Ablation) -> None:
    with explained_write_errors(workspace.uri):
        workspace.write_bytes(workspace.path("ablation.json"), result.to_json().encode())
        workspace.write_bytes(workspace.path("ablation.md"), markdown.render(result).encode())
