"""The words stage: BM25 shards of the corpus, built in Ray tasks in two passes.

The first pass turns passages into words and counts them; its counts added up are what the second pass scores with,
so that a passage's score does not depend on the shard it is in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.lexical.bm25 import index_words, save
from pipeline.lexical.statistics import Statistics, count, total
from pipeline.lexical.words import Words, check_stemmer, words_of
from pipeline.progress import Progress
from pipeline.recipe import LexicalSection, PlacementSection, Recipe
from pipeline.records import full_text
from pipeline.sharded.arrow_file import read_arrow, write_arrow
from pipeline.sharded.building import building_folder, finish
from pipeline.sharded.folder import WORDS, File, Generation, ShardFiles, ShardFolder
from pipeline.sharded.rows import Rows, bounds_of
from pipeline.stage import Estimate, StageContext

DIRECTORY = "words"
STATISTICS = "statistics"
_COLUMNS = ["passage_id", "title", "text"]
# Passages turned into words at a time
_BATCH = 10_000
_CPUS_PER_TASK = 1
_ADVICE = "One killed for memory needs a smaller lexical.shard_passages."
# Bytes of a posting: score and passage; and postings per passage of usual length
_POSTING_BYTES, _POSTINGS = 8, 60


@dataclass(frozen=True)
class About:
    """The `about` of a words generation."""

    section: dict[str, Any]
    corpus: str  # identity of the corpus artifact

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> About:
        return cls(**values)

    @property
    def lexical(self) -> LexicalSection:
        return LexicalSection.model_validate(self.section)


def run(ctx: StageContext) -> None:
    """Write folder `words`: BM25 shards over title and text of every passage, and their generation."""
    from pipeline.ray_session import ensure_ray

    section, corpus = ctx.recipe.lexical, ctx.inputs["corpus"]
    check_stemmer(section.stemmer)
    ensure_ray(ctx.recipe.ray)
    rows = Rows.of(corpus, "passages")
    shards = max(1, -(-rows.total // section.shard_passages))
    made_of = {"corpus": corpus.manifest.identity, "section": section.result_fields(), "shards": shards}
    building = building_folder(ctx, made_of)
    done, statistics = build_words(ctx.progress, rows, section, building, shards)
    about = About(section.result_fields(), corpus.manifest.identity)
    finish(ctx, DIRECTORY, building, Generation(1, asdict(about), {WORDS: tuple(done)}, {STATISTICS: statistics}))


def build_words(
    progress: Progress, rows: Rows, section: LexicalSection, folder: ShardFolder, shards: int, prefix: str = ""
) -> tuple[list[ShardFiles], File]:
    """Both passes in Ray tasks over rows of passage_id, title and text; what is in the folder already is kept.

    Returns the shards, and the statistics of all rows.
    """
    import ray

    from pipeline.placement import Demand, place_task
    from pipeline.ray_session import explained_ray_errors

    demand = Demand.of(PlacementSection(), _CPUS_PER_TASK)
    task = ray.remote(**place_task("words: tasks", demand, "Change ray.labels"))
    read, build = task(_read), task(_build)
    with explained_ray_errors("lexical: a task", _ADVICE):
        reading = [
            read.remote(rows, bounds, section.stemmer, folder, f"{prefix}words-{number:04d}")
            for number, bounds in enumerate(bounds_of(rows.total, shards))
        ]
        counted = list(_each(progress, reading, "parts of the corpus counted"))
        statistics = _add_up(folder, counted, f"{prefix}statistics.arrow")
        building = [
            build.remote(folder, files, statistics, section, f"{prefix}word-shard-{number:04d}")
            for number, files in enumerate(counted)
        ]
        return list(_each(progress, building, "word shards built")), statistics


def _each(progress: Progress, pending: list[Any], what: str) -> Iterator[ShardFiles]:
    import ray

    for done, reference in enumerate(pending, start=1):
        yield ray.get(reference)
        progress.update(what, done, len(pending))


def _read(rows: Rows, bounds: tuple[int, int], stemmer: str, folder: ShardFolder, name: str) -> ShardFiles:
    """First pass over a range of the corpus: its words, ids and statistics, as files."""
    if (noted := folder.noted(name)) is not None:
        return noted
    ids: list[pa.Array] = [pa.array([], pa.string())]

    def texts() -> Iterator[list[str]]:
        for piece in rows.pieces(*bounds, columns=_COLUMNS):
            for start in range(0, piece.num_rows, _BATCH):
                batch = piece.slice(start, _BATCH)
                ids.extend(batch["passage_id"].chunks)
                yield list(map(full_text, batch["title"].to_pylist(), batch["text"].to_pylist()))

    words = words_of(texts(), stemmer)
    with folder.scratch() as scratch:
        files = {role: scratch / f"w.{role}.arrow" for role in ("tokens", "lengths", "vocabulary", "passage_ids")}
        columns = (words.tokens, words.lengths, words.vocabulary, pa.concat_arrays(ids))
        for path, column in zip(files.values(), columns, strict=True):
            write_arrow(path, pa.table({"column": pa.array(column)}))
        files[STATISTICS] = scratch / "w.statistics.arrow"
        count(words).save(files[STATISTICS])
        return folder.note(name, folder.add_shard(len(words.lengths), name, files))


def _column(path: Path) -> pa.Array:
    column = read_arrow(path)["column"]
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _add_up(folder: ShardFolder, counted: list[ShardFiles], name: str) -> File:
    parts = [Statistics.open(folder.fetch([files.files[STATISTICS]])[0]) for files in counted]
    with folder.scratch() as scratch:
        path = scratch / "statistics.arrow"
        total(parts).save(path)
        return folder.add(path, name)


def _build(
    folder: ShardFolder, counted: ShardFiles, statistics: File, section: LexicalSection, name: str
) -> ShardFiles:
    """Second pass: the shard, scored with the statistics of the whole corpus."""
    if (noted := folder.noted(name)) is not None:
        return noted
    roles = ("tokens", "lengths", "vocabulary", "passage_ids")
    local = folder.fetch([*(counted.files[role] for role in roles), statistics])
    tokens, lengths, vocabulary, ids = map(_column, local[:4])
    words = Words(vocabulary.to_pylist(), np.asarray(tokens, np.int32), np.asarray(lengths, np.int32))
    shard = index_words(words, ids, Statistics.open(local[4]), section)
    with folder.scratch() as scratch:
        return folder.note(name, folder.add_shard(len(ids), name, save(shard, scratch)))


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    rows = upstream["corpus"].rows
    return Estimate(rows=rows, disk_bytes=rows * _POSTINGS * _POSTING_BYTES, note=f"if passages have {_POSTINGS} words")
