"""Run a training on Ray Train from a stage: workers, progress, failures, and what is kept at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.errors import RayrieverError, root_cause
from pipeline.placement import Demand, require_room
from pipeline.ray_session import ensure_ray, explained_ray_errors
from pipeline.recipe import TrainingSection
from pipeline.stage import StageContext
from pipeline.training.heard import heard_steps
from pipeline.training.job import SCORE, STATE, Outcome, TrainingJob, TrainingSet
from pipeline.training.learner import Trainee
from pipeline.training.loop import train_worker
from pipeline.training.sampler import Dataset
from pipeline.training.tracking import Tracker
from pipeline.training.weights import MODEL

CURVE = pa.schema([("step", pa.int64()), ("loss", pa.float64()), (SCORE, pa.float64())])
_FIGURES = ("loss", "learning_rate", "gradient_norm", "tokens_per_second")

# A worker's death restarts training from the last checkpoint; more deaths than this are no accident.
_MAX_FAILURES = 3

_RECORD = "checkpoint_manager_snapshot.json"


def fit(
    ctx: StageContext,
    stage: str,
    section: TrainingSection,
    examples: TrainingSet,
    trainee: Trainee,
) -> None:
    """Train; write tables `curve`, `metrics` and folder `model`, the best on dev."""
    _check_rows(ctx, stage, section, examples.datasets)
    ensure_ray(ctx.recipe.ray)
    demand = Demand.of(section.placement, section.cpus_per_worker, float(section.use_gpu))
    keys = [f"{stage}.{key}" for key in ("workers", "cpus_per_worker", "use_gpu", "placement")]
    if demand.labels and section.min_workers is not None and section.min_workers < section.workers:
        raise RayrieverError(
            f"{stage}.min_workers: Ray does not look at labels ({', '.join(demand.labels)}) when it decides how many "
            f"workers fit. Take it out, or have no labels: {stage}.placement.accelerator_type tells nodes apart, too."
        )
    require_room(keys[0], section.min_workers or section.workers, demand, f"Change {', '.join(keys)}")
    _drop_torn_record(ctx)
    seed = ctx.recipe.seed if section.seed is None else section.seed
    run = f"{stage}-{ctx.out.key[:8]}"
    values = {"stage": stage, "seed": seed, **section.result_fields()}
    tracked = Tracker(ctx.recipe.tracking, ctx.workspace, run, values, ctx.progress.message)
    with tracked as tracker, heard_steps(ctx.progress, tracker) as listener:
        job = TrainingJob(
            stage=stage,
            workspace=ctx.workspace.uri,
            section=section,
            seed=seed,
            examples=examples,
            trainee=trainee,
            listener=listener,
        )
        result = _train(ctx, stage, section, job, demand)
    _keep_best(ctx, trainee.figures, result)


def _check_rows(ctx: StageContext, stage: str, section: TrainingSection, datasets: Sequence[Dataset]) -> None:
    for dataset in datasets:
        if dataset.rows < section.workers:
            raise RayrieverError(
                f"{stage}: {dataset.rows} training queries for {section.workers} workers, which share every batch. "
                f"Lower {stage}.workers, or give more queries."
            )
        if dataset.rows < section.batch_size:
            ctx.progress.message(
                f"{dataset.rows} queries are fewer than batch_size {section.batch_size}: batches shrink"
            )


def _drop_torn_record(ctx: StageContext) -> None:
    """Start anew where Ray Train's list of checkpoints was cut by a kill: it is written in place, and never mended."""
    content = ctx.workspace.read_bytes(ctx.workspace.path("training", ctx.out.key, _RECORD))
    try:
        json.loads(b"{}" if content is None else content)
    except ValueError:
        ctx.progress.message("the list of checkpoints is torn: training starts anew")
        ctx.workspace.delete_folder("training", ctx.out.key)


def _train(ctx: StageContext, stage: str, section: TrainingSection, job: TrainingJob, demand: Demand) -> Any:
    elastic = section.min_workers is not None and section.min_workers < section.workers
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=(section.min_workers, section.workers) if elastic else section.workers,
            use_gpu=section.use_gpu,
            resources_per_worker=demand.bundle(),
            label_selector=dict(demand.labels) or None,
        ),
        run_config=RunConfig(
            # Ray Train resumes what it finds under a name: the key keeps other configurations apart.
            name=ctx.out.key,
            storage_path=ctx.workspace.path("training"),
            storage_filesystem=ctx.workspace.filesystem,
            failure_config=FailureConfig(max_failures=_MAX_FAILURES),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=SCORE, checkpoint_score_order="max"
            ),
        ),
    )
    advice = (
        "The same command goes on from the last checkpoint; "
        f"a worker killed for memory needs a smaller {stage}.tokens_per_batch."
    )
    with explained_ray_errors(f"{stage}: training", advice):
        try:
            return trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _first_cause(stage, error, advice) from error


def _first_cause(stage: str, error: Any, advice: str) -> BaseException:
    """The first worker's own message, without Ray's tracebacks."""
    first = next(iter(getattr(error, "worker_failures", {}).values()), error)
    cause = root_cause(first)
    if isinstance(cause, (RayrieverError, OSError)):
        return cause
    cause = getattr(first, "cause", None) or first
    return RayrieverError(f"{stage}: training failed: {type(cause).__name__}: {str(cause)[:500]}. {advice}")


def metrics_schema(figures: Sequence[str]) -> pa.Schema:
    """One row per step; a figure is null where the step had nothing of its kind."""
    named = [(name, pa.float64()) for name in (*_FIGURES, *figures)]
    return pa.schema([("step", pa.int64()), ("epoch", pa.int64()), *named])


def _keep_best(ctx: StageContext, figures: Sequence[str], result: Any) -> None:
    outcome: Outcome = result.return_value
    if outcome.error:
        # Nothing to resume: the same weights would fail at the same step.
        ctx.workspace.delete_folder("training", ctx.out.key)
        raise RayrieverError(outcome.error)
    ctx.out.table("curve", pa.Table.from_pylist(outcome.curve, schema=CURVE), CURVE)
    schema = metrics_schema(figures)
    ctx.out.table("metrics", pa.Table.from_pylist(outcome.metrics, schema=schema), schema)
    for point in outcome.curve:
        if point[SCORE] is not None:
            ctx.progress.message(f"step {point['step']}: dev nDCG@10 {point[SCORE]:.4f}")
    best = result.get_best_checkpoint(SCORE, "max")
    with best.as_directory() as folder, ctx.out.directory("model") as target:
        shutil.copytree(f"{folder}/{MODEL}", target, dirs_exist_ok=True)
        ctx.out.outcomes["chosen_step"] = json.loads(Path(folder, STATE).read_text())["step"]
    ctx.out.outcomes["steps"] = int(outcome.curve[-1]["step"] or 0)
    ctx.out.after_commit(lambda: ctx.workspace.delete_folder("training", ctx.out.key))
