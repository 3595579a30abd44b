"""The sparse stage: every passage as weighted vocabulary entries, in shards that Ray Data actors encode and write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from scipy import sparse

from pipeline.progress import Progress
from pipeline.recipe import Recipe, SparseSection
from pipeline.records import full_text
from pipeline.sharded.building import building_folder, finish
from pipeline.sharded.folder import TERMS, Generation, ShardFiles, ShardFolder
from pipeline.sharded.rows import Rows, bounds_of
from pipeline.stage import Estimate, StageContext

if TYPE_CHECKING:
    from pipeline.sparse.model import SparseModel

DIRECTORY = "sparse"
_COLUMNS = ["passage_id", "title", "text"]
# Passages encoded together. They are counted from the corpus's first, because a model's sums depend on what is in its
# batch: were they counted from a shard's first, scores would depend on the sharding.
_SLICE_ROWS = 512
_ADVICE = "One killed for memory needs a smaller sparse.batch_size or sparse.shard_passages."
# Bytes of a posting: weight and passage; and terms of a passage under a model trained to be sparse
_POSTING_BYTES, _TERMS = 8, 150


@dataclass(frozen=True)
class About:
    """The `about` of a generation of terms."""

    section: dict[str, Any]
    model: str  # fingerprint of the weights
    corpus: str  # identity of the corpus artifact


class EncodeShard:
    """Ray Data actor: ranges of the corpus in, a shard written for each, their names and sizes out."""

    def __init__(self, section: SparseSection, rows: Rows, folder: ShardFolder) -> None:
        self.section, self.rows, self.folder = section, rows, folder

    @cached_property
    def model(self) -> SparseModel:
        """Loaded by a call: what a constructor raises reaches the driver as the death of the actor."""
        import torch

        from pipeline.encoder.model import best_device
        from pipeline.sparse.model import SparseModel

        torch.set_num_threads(max(1, int(self.section.cpus_per_actor)))
        return SparseModel(self.section, best_device(self.section.gpus_per_actor))

    def __call__(self, ranges: pa.Table) -> pa.Table:
        built = [self._build(**row) for row in ranges.to_pylist()]
        return pa.table({"name": ranges["name"], "rows": [shard.rows for shard in built]})

    def _build(self, name: str, start: int, stop: int) -> ShardFiles:
        from pipeline.sparse.shard import index_terms, save

        weights = [sparse.csr_matrix((0, self.model.vocabulary), dtype="float32")]
        ids: list[pa.Array] = [pa.array([], pa.string())]
        for first, passages in slices(self.rows, start, stop):
            texts = map(full_text, passages["title"].to_pylist(), passages["text"].to_pylist())
            low, high = max(start - first, 0), min(stop - first, passages.num_rows)
            weights.append(self.model.encode_passages(list(texts))[low:high])
            ids.extend(passages["passage_id"].slice(low, high - low).chunks)
        shard = index_terms(sparse.vstack(weights, format="csr"), pa.concat_arrays(ids))
        with self.folder.scratch() as scratch:
            return self.folder.note(name, self.folder.add_shard(len(shard.ids), name, save(shard, scratch)))


def slices(rows: Rows, start: int, stop: int) -> Iterator[tuple[int, pa.Table]]:
    """The slices of the corpus that hold rows start to stop, each whole, with the number of its first row.

    Where a slice ends depends on the corpus alone: at multiples of the slice's length, and at the ends of parts.
    """
    first, end = start - start % _SLICE_ROWS, min(rows.total, -(-stop // _SLICE_ROWS) * _SLICE_ROWS)
    for piece in rows.pieces(first, end, columns=_COLUMNS):
        taken = 0
        while taken < piece.num_rows:
            cut = piece.slice(taken, _SLICE_ROWS - first % _SLICE_ROWS)
            if first < stop and first + cut.num_rows > start:
                yield first, cut
            first, taken = first + cut.num_rows, taken + cut.num_rows


def run(ctx: StageContext) -> None:
    """Write folder `sparse`: shards of weighted terms over title and text of every passage, and their generation."""
    from pipeline.ray_session import ensure_ray

    section, corpus = _section(ctx.recipe), ctx.inputs["corpus"]
    ensure_ray(ctx.recipe.ray)
    rows = Rows.of(corpus, "passages")
    shards = max(1, -(-rows.total // section.shard_passages))
    about = About(section.result_fields(), external(ctx.recipe), corpus.manifest.identity)
    building = building_folder(ctx, {**asdict(about), "shards": shards})
    done = build_terms(ctx.progress, rows, section, building, shards)
    finish(ctx, DIRECTORY, building, Generation(1, asdict(about), {TERMS: tuple(done)}))


def build_terms(
    progress: Progress, rows: Rows, section: SparseSection, folder: ShardFolder, shards: int
) -> list[ShardFiles]:
    """Encode in Ray Data actors whatever shards are not in the folder yet."""
    import ray

    from pipeline.placement import place_actors
    from pipeline.ray_session import explained_ray_errors

    bounds = {f"term-shard-{number:04d}": each for number, each in enumerate(bounds_of(rows.total, shards))}
    pending = [
        pa.table({"name": [name], "start": [start], "stop": [stop]})
        for name, (start, stop) in bounds.items()
        if folder.noted(name) is None
    ]
    done = rows.total - sum(table["stop"][0].as_py() - table["start"][0].as_py() for table in pending)
    if pending:
        demand = place_actors("sparse", section)
        built = ray.data.from_arrow(pending).map_batches(
            EncodeShard,
            batch_size=1,
            batch_format="pyarrow",
            **demand.options(),
            compute=ray.data.ActorPoolStrategy(size=min(section.actors, len(pending))),
            fn_constructor_args=(section, rows, folder),
        )
        with explained_ray_errors("sparse: an actor", _ADVICE):
            for row in built.iter_rows():
                done += row["rows"]
                progress.update("passages weighted", done, rows.total)
    found = [folder.noted(name) for name in bounds]
    return [shard for shard in found if shard is not None]


def external(recipe: Recipe) -> str:
    """Stands for the weights of the model."""
    from pipeline.models import locate

    return locate(_section(recipe).model).fingerprint


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    rows, terms = upstream["corpus"].rows, min(_TERMS, _section(recipe).max_terms)
    return Estimate(rows=rows, disk_bytes=rows * terms * _POSTING_BYTES, note=f"if passages have {terms} terms")


def _section(recipe: Recipe) -> SparseSection:
    assert recipe.sparse is not None, "without section sparse there is no such stage"
    return recipe.sparse
