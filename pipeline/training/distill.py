"""Stage 1 of Syntriever: distil labels and LLM-written documents into the encoder on Ray Train."""

from __future__ import annotations

import json
import shutil
import threading
from collections import defaultdict
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe
from pipeline.records import TRAINING_EXAMPLE, full_text
from pipeline.stage import Estimate, StageContext
from pipeline.training.examples import Example, join_examples, to_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.progress import Progress
    from pipeline.training.dev import DevSet

CURVE = pa.schema([("step", pa.int64()), ("loss", pa.float64()), ("dev_ndcg_at_10", pa.float64())])

# A worker's death restarts training from the last checkpoint; more deaths than this are no accident.
_MAX_FAILURES = 3
_GO_ON = (
    "The same command goes on from the last checkpoint; a worker killed for memory needs a smaller distill.batch_size."
)


def run(ctx: StageContext) -> None:
    """Write tables `examples` and `curve` and folder `model`: the checkpoint that is best on dev."""
    examples = _examples(ctx)
    ctx.out.table("examples", to_table(examples), TRAINING_EXAMPLE)
    if len(examples) < max(2, ctx.recipe.distill.workers):
        raise RayrieverError(
            f"distill: {len(examples)} training queries with a positive; there must be at least two, and one per "
            "worker. Give train judgments, or raise queries.generate."
        )
    _train(ctx, examples, _dev_set(ctx))


def _examples(ctx: StageContext) -> list[Example]:
    queries, labels = _split(ctx, "train")
    wanted = {passage_id for ids in labels.values() for passage_id in ids}
    synthesis = {row["query_id"]: row for row in ctx.inputs["synthesis"].table("synthesis").to_pylist()}
    examples, outcomes = join_examples(
        queries,
        {query_id: list(grades) for query_id, grades in labels.items()},
        _passage_texts(ctx, wanted),
        _representatives(ctx),
        synthesis,
        ctx.recipe.distill.loss,
    )
    ctx.out.outcomes.update(outcomes)
    return examples


def _representatives(ctx: StageContext) -> dict[str, str]:
    """Passage id -> first of its duplicates; others stand for themselves."""
    rows = ctx.inputs["corpus"].table("duplicates")
    return dict(zip(rows["passage_id"].to_pylist(), rows["duplicate_of"].to_pylist(), strict=True))


def _split(ctx: StageContext, split: str) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Texts of a split's queries, and their relevant passages with grades."""
    table = ctx.inputs["queries"].table("queries")
    table = table.filter(pc.equal(table["split"], split)).sort_by("query_id")
    queries = dict(zip(table["query_id"].to_pylist(), table["text"].to_pylist(), strict=True))
    labels: dict[str, dict[str, int]] = defaultdict(dict)
    for row in ctx.inputs["queries"].table("judgments").to_pylist():
        if row["query_id"] in queries and row["grade"] > 0:
            labels[row["query_id"]][row["passage_id"]] = row["grade"]
    return queries, labels


def _passage_texts(ctx: StageContext, wanted: set[str]) -> dict[str, str]:
    passages = ctx.inputs["corpus"].table("passages", columns=["passage_id", "title", "text"])
    chosen = passages.filter(pc.is_in(passages["passage_id"], pa.array(sorted(wanted), pa.string())))
    return {row["passage_id"]: full_text(row["title"], row["text"]) for row in chosen.to_pylist()}


def _dev_set(ctx: StageContext) -> DevSet | None:
    from pipeline.training.dev import DevSet, choose_passages

    queries, judgments = _split(ctx, "dev")
    queries = {query_id: text for query_id, text in queries.items() if query_id in judgments}
    if not queries:
        return None
    judged = {passage_id for grades in judgments.values() for passage_id in grades}
    every_id = ctx.inputs["corpus"].table("passages", columns=["passage_id"])["passage_id"].to_pylist()
    chosen = choose_passages(judged, every_id, ctx.recipe.distill.dev_passages, ctx.recipe.seed)
    texts = _passage_texts(ctx, set(chosen))
    return DevSet(queries, dict(judgments), {passage_id: texts[passage_id] for passage_id in chosen})


def _train(ctx: StageContext, examples: list[Example], dev: DevSet | None) -> None:
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipeline.ray_session import ensure_ray, explained_ray_errors, require_resources
    from pipeline.training.loop import SCORE, TrainingJob, train_worker

    section = ctx.recipe.distill
    ensure_ray(ctx.recipe.ray)
    names = ("distill.workers", "distill.cpus_per_worker", "distill.use_gpu")
    require_resources(names, section.workers, section.cpus_per_worker, float(section.use_gpu))
    with _heard_steps(ctx.progress) as listener:
        job = TrainingJob(ctx.recipe.encoder, section, ctx.recipe.seed, examples, dev, listener)
        resources = {"CPU": section.cpus_per_worker} | ({"GPU": 1} if section.use_gpu else {})
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(
                num_workers=section.workers, use_gpu=section.use_gpu, resources_per_worker=resources
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
        try:
            with explained_ray_errors("distill: training", _GO_ON):
                result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _explained(error) from error
    _keep_best(ctx, result)


def _explained(error: Any) -> BaseException:
    """The first worker's own message, without Ray's tracebacks."""
    first = next(iter(getattr(error, "worker_failures", {}).values()), error)
    cause = getattr(first, "cause", None) or first
    if isinstance(cause, (RayrieverError, OSError)):
        return cause
    return RayrieverError(f"distill: training failed: {type(cause).__name__}: {str(cause)[:500]}. {_GO_ON}")


def _keep_best(ctx: StageContext, result: Any) -> None:
    from pipeline.training.loop import MODEL, SCORE, STATE

    curve = result.return_value
    ctx.out.table("curve", pa.Table.from_pylist(curve, schema=CURVE), CURVE)
    for point in curve:
        if point[SCORE] is not None:
            ctx.progress.message(f"step {point['step']}: dev nDCG@10 {point[SCORE]:.4f}")
    best = result.get_best_checkpoint(SCORE, "max")
    with best.as_directory() as folder, ctx.out.directory("model") as target:
        shutil.copytree(f"{folder}/{MODEL}", target, dirs_exist_ok=True)
        ctx.out.outcomes["chosen_step"] = json.loads(Path(folder, STATE).read_text())["step"]
    ctx.out.outcomes["steps"] = curve[-1]["step"]
    ctx.out.after_commit(lambda: ctx.workspace.delete_folder("training", ctx.out.key))


class _Steps:
    """Ray actor that remembers how far training is; workers tell it, the driver asks."""

    def __init__(self) -> None:
        self.done, self.total = 0, 0

    def update(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def read(self) -> tuple[int, int]:
        return self.done, self.total


@contextmanager
def _heard_steps(progress: Progress) -> Iterator[Any]:
    """Pass steps on to `progress` while the driver waits for training to end."""
    import ray

    actor = ray.remote(num_cpus=0)(_Steps).remote()
    finished = threading.Event()

    def listen() -> None:
        while not finished.wait(1.0):
            done, total = ray.get(actor.read.remote())
            if total:
                progress.update("training steps", done, total)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        finished.set()
        thread.join()
        ray.kill(actor)


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    rows = upstream["queries"].rows
    return Estimate(rows=rows, disk_bytes=500_000_000, note="one encoder, twice with its optimiser while training")
