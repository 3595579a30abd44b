"""Search an index for as many queries as there are: encoded and searched by Ray Data actors, kept as Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.rankings import Hit, from_table, to_table
from pipeline.recipe import EncoderSection
from pipeline.records import HIT
from pipeline.stage import StageContext
from pipeline.whole_tables import as_row, from_row
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.index.search import ShardedIndex

TABLE = "hits"
# Queries per call of an actor, and so per Parquet part: bounds the memory for their hits.
_SLICE = 1024
_ADVICE = "One killed for memory needs a smaller encoder.tokens_per_batch."
_QUERIES = pa.schema([("number", pa.int64()), ("query_id", pa.string()), ("text", pa.string())])


class SearchQueries:
    """Ray Data actor: queries in, one Parquet part of their hits written, the count out."""

    def __init__(
        self,
        section: EncoderSection,
        trained_by: tuple[str, str] | None,
        index: ShardedIndex,
        workspace: str,
        folder: str,
        system: str,
        top_k: int,
    ) -> None:
        import torch

        from pipeline.encoder.encode import Encoder
        from pipeline.encoder.identity import identify
        from pipeline.encoder.model import best_device, load_model, trained_folder

        torch.set_num_threads(max(1, int(section.cpus_per_actor)))
        model = load_model(section, trained_folder(workspace, trained_by))
        index.check_encoder(identify(model))
        device = best_device(section.gpus_per_actor)
        self.encoder = Encoder(model, section.dtype, section.tokens_per_batch, device)
        self.index, self.workspace, self.folder = index, Workspace(workspace), folder
        self.system, self.top_k = system, top_k

    def __call__(self, row: pa.Table) -> pa.Table:
        queries = from_row(row)
        vectors = self.encoder.encode_queries(queries["text"].to_pylist())
        found = dict(zip(queries["query_id"].to_pylist(), self.index.search(vectors, self.top_k), strict=True))
        number = queries["number"][0].as_py()
        # Named by position: a retried slice replaces its part instead of adding one.
        self.workspace.write_table(f"{self.folder}/part-{number:06d}.parquet", to_table(self.system, found))
        return pa.table({"queries": [queries.num_rows]})


def search_all(
    ctx: StageContext, index: str, training: str | None, queries: Mapping[str, str], top_k: int
) -> Iterator[dict[str, list[Hit]]]:
    """Write table `hits`, the `top_k` of every query by id, and give them back part by part.

    Args:
        index: the input whose shards are searched; `system` of the hits is the stage that made it.
        training: the input that made its encoder; None is the recipe's encoder.
        queries: texts by id; not empty.
    """
    import ray

    from pipeline.index.search import ShardedIndex, folder_of
    from pipeline.placement import place_actors
    from pipeline.ray_session import ensure_ray, explained_ray_errors

    section, artifact = ctx.recipe.encoder, ctx.inputs[index]
    ensure_ray(ctx.recipe.ray)
    demand = place_actors("encoder", section)
    slices = [as_row(each) for each in _slices(queries)]
    trained_by = None if training is None else ctx.inputs[training].manifest.place
    with ShardedIndex(folder_of(artifact), ctx.recipe.index) as shards:
        shards.shards.wait_until_ready()
        counts = ray.data.from_arrow(slices).map_batches(
            SearchQueries,
            batch_size=1,
            batch_format="pyarrow",
            **demand.options(),
            compute=ray.data.ActorPoolStrategy(size=min(section.actors, len(slices))),
            fn_constructor_args=(
                section,
                trained_by,
                shards,
                ctx.workspace.uri,
                ctx.out.part_folder(TABLE),
                artifact.manifest.stage,
                top_k,
            ),
        )
        done = 0
        with explained_ray_errors("mining: an actor", _ADVICE):
            for row in counts.iter_rows():
                done += row["queries"]
                ctx.progress.update("queries searched", done, len(queries))
    ctx.out.adopt_parts(TABLE, HIT)
    for part in ctx.out.parts(TABLE):
        hits = pq.read_table(part, filesystem=ctx.workspace.filesystem)
        yield from_table(hits, artifact.manifest.stage)


def _slices(queries: Mapping[str, str]) -> Iterator[pa.Table]:
    ids, texts = list(queries), list(queries.values())
    for number, start in enumerate(range(0, len(ids), _SLICE)):
        of_slice = ids[start : start + _SLICE]
        columns = [[number] * len(of_slice), of_slice, texts[start : start + _SLICE]]
        yield pa.table([pa.array(c, f.type) for c, f in zip(columns, _QUERIES, strict=True)], schema=_QUERIES)
