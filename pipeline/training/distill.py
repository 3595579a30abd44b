"""Stage 1 of Syntriever: distil labels and LLM-written documents into the encoder."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipeline.bad_rows import check_bad_share
from pipeline.errors import RayrieverError
from pipeline.recipe import DatasetSection, Recipe
from pipeline.recorded import file_fingerprint
from pipeline.records import DATASET, TRAINING_EXAMPLE
from pipeline.stage import Estimate, StageContext
from pipeline.training.dev import dev_set
from pipeline.training.examples import Example
from pipeline.training.exchange import read_examples
from pipeline.training.job import TrainingSet
from pipeline.training.join import QUERIES_AT_ONCE, Sources, as_tables
from pipeline.training.sampler import Dataset


def run(ctx: StageContext) -> None:
    """Write tables `examples`, `datasets`, `curve`, `metrics` and folder `model`: the checkpoint best on dev."""
    from pipeline.training.encoder_learner import EncoderTrainee
    from pipeline.training.fit import fit

    section = ctx.recipe.distill
    datasets = _write_examples(ctx)
    rows = sum(dataset.rows for dataset in datasets)
    if rows < max(2, section.workers):
        raise RayrieverError(
            f"distill: {rows} training queries with a positive; there must be at least two, and one per "
            "worker. Give train judgments or distill.datasets, or raise queries.generate."
        )
    ctx.out.table("datasets", pa.Table.from_pylist([vars(each) for each in datasets], schema=DATASET), DATASET)
    examples = TrainingSet(ctx.out.parts("examples"), tuple(datasets))
    start = ctx.inputs["distill"].manifest.place if "distill" in ctx.inputs else None  # the round before
    trainee = EncoderTrainee(ctx.recipe.encoder, start, section, None, dev_set(ctx, section.dev_passages))
    fit(ctx, "distill", section, examples, trainee)


def _write_examples(ctx: StageContext) -> list[Dataset]:
    """The recipe's queries, its LLM-written sentences, and its tables; returns where each of them lies."""
    section, rows = ctx.recipe.distill, list[int]()

    def teaches(example: Example) -> bool:
        return bool(example.labelled or example.positives or (section.teacher_weight and example.grades))

    def counted() -> Iterator[pa.Table]:
        for blocks in _origins(ctx):
            rows.append(0)
            for table in as_tables(blocks, teaches, ctx.out.outcomes, "examples_without_positive"):
                rows[-1] += table.num_rows
                yield table

    ctx.out.table("examples", counted(), TRAINING_EXAMPLE)
    own, written, *_ = rows
    weights = [section.own_weight, section.sentence_weight * section.own_weight * own / max(1, written)]
    weights += [dataset.weight for dataset in section.datasets]
    starts = itertools.accumulate([0, *rows])
    return [Dataset(start, count, weight) for start, count, weight in zip(starts, rows, weights, strict=False) if count]


def _origins(ctx: StageContext) -> Iterator[Iterator[list[Example]]]:
    section = ctx.recipe.distill
    # InfoNCE has one positive per row: of what the LLM wrote, only the negative can enter.
    kinds = [kind for kind in section.synthetic if kind == "negative" or section.loss != "infonce"]
    sources = Sources(ctx, kinds, graded=False, pairs=False, labels=section.labels)
    yield sources.examples()
    yield sources.sentences()
    for dataset in section.datasets:
        yield _blocks(_of_table(ctx, dataset))


def _of_table(ctx: StageContext, dataset: DatasetSection) -> Iterator[Example]:
    """Examples of one of the recipe's tables; its scores at the temperature of the teacher's."""
    wanted = ctx.recipe.distill.teacher_temperature
    factor = 1.0 if dataset.score_temperature is None else wanted / dataset.score_temperature
    used = 0
    sources: list[str] = []

    def reject(source: str, line: int | None, query_id: str | None, reason: str) -> None:
        sources.append(source)
        ctx.out.quarantine(source, line, query_id, reason)

    for example in read_examples(dataset.path, reject):
        used += 1
        yield replace(example, grades=tuple(factor * grade for grade in example.grades))
    place, bad = f"distill.datasets {dataset.path}", len(sources)
    check_bad_share(ctx, place, bad, used + bad, "correct the path", source=sources[0] if sources else None)
    if not used:
        raise RayrieverError(f"{place}: holds no rows. Correct the path, or take the table out.")


def _blocks(examples: Iterator[Example]) -> Iterator[list[Example]]:
    while block := list(itertools.islice(examples, QUERIES_AT_ONCE)):
        yield block


def external(recipe: Recipe) -> Any:
    """Stands for the weights of the base encoder and for the tables named in the recipe."""
    from pipeline.models import locate

    tables = [file_fingerprint(dataset.path) for dataset in recipe.distill.datasets]
    return {"encoder": locate(recipe.encoder.model).fingerprint, "datasets": tables}


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    rows = upstream["queries"].rows
    return Estimate(rows=rows, disk_bytes=500_000_000, note="one encoder, twice with its optimiser while training")
