"""Encode a whole corpus with Ray Data actors; every actor writes its own Parquet parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifact import Artifact
from pipeline.recipe import EncoderSection, Recipe
from pipeline.records import full_text, vector_schema
from pipeline.stage import Estimate, StageContext
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.encoder.identity import EncoderIdentity

IDENTITY, _IDENTITY_FILE = "encoder", "encoder.json"
_USUAL_DIMENSION = 384
# Passages per call of an actor, and so per Parquet part.
_SLICE_ROWS = 2048


class EncodePassages:
    """Ray Data actor: a slice of the corpus in, one Parquet part of vectors written, the count out."""

    def __init__(
        self, section: EncoderSection, trained_by: tuple[str, str] | None, workspace: str, folder: str
    ) -> None:
        import torch

        from pipeline.encoder.encode import Encoder
        from pipeline.encoder.identity import identify
        from pipeline.encoder.model import best_device, load_model, trained_folder

        torch.set_num_threads(max(1, int(section.cpus_per_actor)))
        self.workspace = Workspace(workspace)
        model = load_model(section, trained_folder(workspace, trained_by))
        self.identity = identify(model)
        self.encoder = Encoder(
            model,
            section.dtype,
            section.tokens_per_batch,
            best_device(section.gpus_per_actor),
        )
        self.folder = folder
        self._part, self._passages = "", pa.table({})

    def __call__(self, slices: pa.Table) -> pa.Table:
        counts = [self._encode(**row) for row in slices.to_pylist()]
        return pa.table({"rows": counts, "encoder": [json.dumps(asdict(self.identity))] * len(counts)})

    def _encode(self, part: str, start: int, rows: int, number: int) -> int:
        passages = self._read(part).slice(start, rows)
        ids = passages["passage_id"].to_pylist()
        texts = map(full_text, passages["title"].to_pylist(), passages["text"].to_pylist())
        vectors = self.encoder.encode_passages(list(texts))
        schema = vector_schema(self.encoder.dimension)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.encoder.dimension)
        # Named by position: a retried slice replaces its part instead of adding one.
        target = f"{self.folder}/{_part_name(number)}"
        self.workspace.write_table(target, pa.Table.from_arrays([pa.array(ids), column], schema=schema))
        return len(ids)

    def _read(self, part: str) -> pa.Table:
        """A part holds many slices, which mostly reach one actor in a row."""
        if part != self._part:
            columns = ["passage_id", "title", "text"]
            self._passages = pq.read_table(part, columns=columns, filesystem=self.workspace.filesystem)
            self._part = part
        return self._passages


def run_base(ctx: StageContext) -> None:
    """Encode the corpus with the recipe's encoder as it is."""
    encode_corpus(ctx, None)


def run_tuned(ctx: StageContext) -> None:
    """Encode the corpus with the distilled encoder."""
    encode_corpus(ctx, "distill")


def run_aligned(ctx: StageContext) -> None:
    """Encode the corpus with the aligned encoder."""
    encode_corpus(ctx, "align")


def encode_corpus(ctx: StageContext, training: str | None) -> None:
    """Write table `vectors`, one float32 unit vector per passage, and folder `encoder`, which says whose they are.

    Args:
        training: the stage that made the model; None is the recipe's encoder.
    """
    import ray

    from pipeline.placement import place_actors
    from pipeline.ray_session import ensure_ray, explained_ray_errors

    section = ctx.recipe.encoder
    ensure_ray(ctx.recipe.ray)
    corpus = ctx.inputs["corpus"]
    demand = place_actors("encoder", section)
    places = _places(corpus, ctx.workspace)
    # Of an attempt that died. The last one is made again: whose vectors they are is told by an actor.
    there = {name: ctx.out.part_rows("vectors", name) for name in ctx.out.part_names("vectors")}
    missing = [place for place in places[:-1] if there.get(_part_name(place.number)) != place.rows] + places[-1:]
    slices = [pa.table({name: [value] for name, value in asdict(place).items()}) for place in missing]
    trained_by = None if training is None else ctx.inputs[training].manifest.place
    # Actors read their own slices: with a reader beside them, actors that hold every CPU would wait for it for ever.
    counts = ray.data.from_arrow(slices).map_batches(
        EncodePassages,
        batch_size=1,
        batch_format="pyarrow",
        **demand.options(),
        compute=ray.data.ActorPoolStrategy(size=min(section.actors, len(slices))),
        fn_constructor_args=(section, trained_by, ctx.workspace.uri, ctx.out.part_folder("vectors")),
    )
    total, encoder = corpus.rows("passages"), "{}"
    done = total - sum(place.rows for place in missing)
    with explained_ray_errors("encoder: an actor", "One killed for memory needs a smaller encoder.tokens_per_batch."):
        for row in counts.iter_rows():
            done, encoder = done + row["rows"], row["encoder"]
            ctx.progress.update("passages encoded", done, total)
    dimension = json.loads(encoder)["dimension"]
    written = ctx.out.adopt_parts("vectors", vector_schema(dimension))
    assert written == total, f"{written} vectors for {total} passages"
    with ctx.out.directory(IDENTITY) as folder:
        (folder / _IDENTITY_FILE).write_text(encoder, encoding="utf-8")


def identity_of(encoded: Artifact) -> EncoderIdentity:
    """Whose vectors an encode stage wrote."""
    from pipeline.encoder.identity import EncoderIdentity

    return EncoderIdentity(**json.loads(encoded.file(IDENTITY, _IDENTITY_FILE).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class _Place:
    """What a call of an actor encodes: rows of a part of the corpus, and the number of the part that it writes."""

    part: str
    start: int
    rows: int
    number: int


def _places(corpus: Artifact, workspace: Workspace) -> list[_Place]:
    places: list[_Place] = []
    for part in corpus.parts("passages"):
        rows = pq.read_metadata(part, filesystem=workspace.filesystem).num_rows
        for start in range(0, rows, _SLICE_ROWS):
            places.append(_Place(part, start, min(_SLICE_ROWS, rows - start), len(places)))
    return places


def _part_name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def external(recipe: Recipe) -> str:
    """Stands for the weights of the base encoder."""
    from pipeline.models import locate

    return locate(recipe.encoder.model).fingerprint


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    rows = upstream["corpus"].rows
    dimension = _dimension(recipe)
    assumed = "" if dimension else f"assumes {_USUAL_DIMENSION} dimensions"
    return Estimate(rows=rows, disk_bytes=rows * (dimension or _USUAL_DIMENSION) * 4, note=assumed)


def _dimension(recipe: Recipe) -> int | None:
    """Width of a local model's hidden states, which its pooling keeps; None for one on the hub."""
    from pipeline.models import locate

    config = Path(locate(recipe.encoder.model).path_or_name) / "config.json"
    return json.loads(config.read_text()).get("hidden_size") if config.is_file() else None
