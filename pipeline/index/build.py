"""The index stages: choose a kind, train it, build its shards in Ray tasks, find its effort, commit a generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipeline.artifact import Artifact
from pipeline.encoder.corpus import identity_of
from pipeline.index import tuning
from pipeline.index.builder import TRAINED, Vectors, build, train
from pipeline.index.kinds import Choice, Spec, choose
from pipeline.index.manifest import About
from pipeline.index.shard import INDEX, open_shard
from pipeline.progress import Progress
from pipeline.recipe import IndexSection, Recipe
from pipeline.sharded.building import building_folder, finish
from pipeline.sharded.folder import VECTORS, File, Generation, ShardFiles, ShardFolder
from pipeline.sharded.rows import Rows, bounds_of
from pipeline.stage import Estimate, StageContext

DIRECTORY = "index"
CPUS_PER_BUILDER = 1
_CHANGE = "Change index.gpus, index.placement, ray.labels"
_MORE_SHARDS = "One killed for memory needs more shards: a smaller index.shard_mb."


def run_base(ctx: StageContext) -> None:
    """Index the base encoder's vectors."""
    build_index(ctx, "encode_base")


def run_tuned(ctx: StageContext) -> None:
    """Index the tuned encoder's vectors."""
    build_index(ctx, "encode_tuned")


def run_aligned(ctx: StageContext) -> None:
    """Index the aligned encoder's vectors."""
    build_index(ctx, "encode_aligned")


def build_index(ctx: StageContext, encode_stage: str) -> None:
    """Write folder `index`: the shards and their generation.

    Shards grow in a folder that outlives the attempt: a build that died goes on with those that are missing.
    """
    from pipeline.ray_session import ensure_ray

    encoded, section = ctx.inputs[encode_stage], ctx.recipe.index
    vectors = vectors_of(encoded)
    choice = choose(section, vectors.rows.total, vectors.dimension)
    ctx.progress.message(f"index: {choice.spec.kind} in {choice.spec.shards} shards ({choice.why})")
    ensure_ray(ctx.recipe.ray)
    building = building_folder(ctx, {"vectors": encoded.manifest.identity, "spec": vars(choice.spec)})
    shards, extra = build_shards(ctx.progress, vectors, choice.spec, building, section)
    about = _about(choice, encoded)
    if not choice.spec.is_exact:
        about = tuned(about, section, building, shards[0])
        ctx.progress.message(_told(about, section))
    finish(ctx, DIRECTORY, building, Generation(1, about.values(), {VECTORS: tuple(shards)}, extra))


def vectors_of(encoded: Artifact) -> Vectors:
    """Where an encode stage left its vectors."""
    return Vectors(Rows.of(encoded, "vectors"), identity_of(encoded).dimension)


def build_shards(
    progress: Progress, vectors: Vectors, spec: Spec, folder: ShardFolder, section: IndexSection, prefix: str = ""
) -> tuple[list[ShardFiles], dict[str, File]]:
    """Train where the kind asks for it, and build in Ray tasks whatever is not in the folder yet.

    Returns the shards, and the trained empty index where there is one.
    """
    import ray

    from pipeline.placement import Demand, place_task
    from pipeline.ray_session import explained_ray_errors

    demand = Demand.of(section.placement, CPUS_PER_BUILDER, section.gpus)
    task, threads = ray.remote(**place_task("index: builders", demand, _CHANGE)), CPUS_PER_BUILDER
    build_one = task(build)
    with explained_ray_errors("index: a builder", _MORE_SHARDS):
        trained = folder.noted(f"{prefix}{TRAINED}") if spec.needs_training else None
        if spec.needs_training and trained is None:
            progress.message(f"index: training {spec.lists:,} lists")
            trained = ray.get(task(train).remote(vectors, spec, folder, f"{prefix}{TRAINED}", section.gpus > 0))
        names = [f"{prefix}shard-{number:04d}" for number in range(spec.shards)]
        shards = {name: noted for name in names if (noted := folder.noted(name)) is not None}
        pending = {
            build_one.remote(vectors, bounds, spec, trained, folder, name, threads, section.gpus > 0): name
            for name, bounds in zip(names, bounds_of(vectors.rows.total, spec.shards), strict=True)
            if name not in shards
        }
        while pending:
            progress.update("shards built", len(shards), spec.shards)
            done, _ = ray.wait(list(pending))
            shards |= {pending.pop(reference): ray.get(reference) for reference in done}
    progress.update("shards built", spec.shards, spec.shards)
    return [shards[name] for name in names], {} if trained is None else {TRAINED: trained.files[INDEX]}


def _about(choice: Choice, encoded: Artifact) -> About:
    return About(
        spec=choice.spec,
        why=choice.why,
        effort=tuning.least(choice.spec),
        recall=None,
        encoder=identity_of(encoded),
        corpus=encoded.manifest.inputs.get("corpus", ""),
        vectors=encoded.manifest.identity,
    )


def _told(about: About, section: IndexSection) -> str:
    assert about.recall is not None, "it was tuned"
    short = "" if about.recall >= section.recall else f", below index.recall {section.recall:g}: raise index.lists"
    return f"index: recall@{tuning.RECALL_DEPTH} {about.recall:.3f} with {about.effort}{short}"


def tuned(about: About, section: IndexSection, folder: ShardFolder, files: ShardFiles) -> About:
    """With the effort that reaches the recall, or with the recipe's and the recall that this has."""
    import ray

    from pipeline.placement import Demand, place_task
    from pipeline.ray_session import explained_ray_errors

    options = place_task("index: tuning", Demand.of(section.placement, CPUS_PER_BUILDER), _CHANGE)
    with explained_ray_errors("index: the search for its effort", _MORE_SHARDS):
        task = ray.remote(**options)(_tune)
        found: tuning.Tuned = ray.get(task.remote(folder, files, about, section.recall, section.probes))
    return replace(about, effort=found.effort, recall=found.recall)


def _tune(folder: ShardFolder, files: ShardFiles, about: About, recall: float, probes: int | None) -> tuning.Tuned:
    return tuning.tune(open_shard(folder, files, about, CPUS_PER_BUILDER), recall, probes)


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    vectors = next(iter(upstream.values()))
    return Estimate(rows=vectors.rows, disk_bytes=vectors.disk_bytes)
