"""Score many lists of passages with Ray Data actors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from pipeline.progress import Progress
from pipeline.recipe import RaySection, ScorerSection
from pipeline.whole_tables import as_row, from_row

if TYPE_CHECKING:
    from pipeline.scorer.score import Scores

# Pairs per call of an actor: bounds what it holds, and how often progress is told.
_SLICE_PAIRS = 1024
_ADVICE = "One killed for memory needs a smaller scorer.tokens_per_batch."
_LISTS = pa.schema([("query_id", pa.string()), ("query", pa.string()), ("passages", pa.list_(pa.string()))])
_SCORES = pa.schema([("query_id", pa.string()), ("scores", pa.list_(pa.float32()))])


class PassageList(NamedTuple):
    """Passages to score for one query."""

    query_id: str
    query: str
    passages: Sequence[str]


class ScoreLists:
    """Ray Data actor: lists in, their scores out."""

    def __init__(self, section: ScorerSection, trained_by: tuple[str, str] | None, workspace: str) -> None:
        import torch

        from pipeline.encoder.model import best_device, trained_folder
        from pipeline.scorer.load import load_scorer_model
        from pipeline.scorer.score import Scorer

        torch.set_num_threads(max(1, int(section.cpus_per_actor)))
        model = load_scorer_model(section, trained_folder(workspace, trained_by))
        device = best_device(section.gpus_per_actor)
        self.scorer = Scorer(model, section.dtype, section.tokens_per_batch, device)

    def __call__(self, row: pa.Table) -> pa.Table:
        lists = from_row(row)
        queries, passages = lists["query"].to_pylist(), lists["passages"].to_pylist()
        pairs = [(query, each) for query, of_query in zip(queries, passages, strict=True) for each in of_query]
        offsets = pa.array([0, *_running_total(map(len, passages))], pa.int32())
        scores = pa.ListArray.from_arrays(offsets, pa.array(self.scorer.score_pairs(pairs), pa.float32()))
        return pa.table([lists["query_id"], scores], schema=_SCORES)


def score_lists(
    lists: Iterable[PassageList],
    total: int,
    section: ScorerSection,
    ray_section: RaySection,
    progress: Progress,
    trained_by: tuple[str, str] | None = None,
    workspace: str = "",
) -> Iterator[tuple[str, Scores]]:
    """Give (query id, scores in the order of its passages) of every list, as lists are finished.

    The texts lie in Ray's object store, which spills to disk: `lists` may be longer than the memory.

    Args:
        lists: what to score; read once.
        total: number of lists, for progress.
        section: the reranker, and how many actors with what each.
        trained_by: stage and key that trained the reranker; None is the section's model.
        workspace: URI of the workspace in which that stage ran.
    """
    import ray

    from pipeline.placement import place_actors
    from pipeline.ray_session import ensure_ray, explained_ray_errors
    from pipeline.scorer.load import check_scorer

    ensure_ray(ray_section)
    demand = place_actors("scorer", section)
    waiting = iter(lists)
    first = next(waiting, None)
    if first is None:
        return
    if trained_by is None:
        check_scorer(section)  # what an actor finds wrong at its start reaches nobody in full
    slices = [ray.put(as_row(each)) for each in _slices(chain([first], waiting))]
    scored = ray.data.from_arrow_refs(slices).map_batches(
        ScoreLists,
        batch_size=1,
        batch_format="pyarrow",
        **demand.options(),
        compute=ray.data.ActorPoolStrategy(size=min(section.actors, len(slices))),
        fn_constructor_args=(section, trained_by, workspace),
    )
    done = 0
    with explained_ray_errors("scorer: an actor", _ADVICE):
        for batch in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
            for query_id, scores in zip(batch["query_id"].to_pylist(), batch["scores"], strict=True):
                yield query_id, scores.values.to_numpy()
            done += batch.num_rows
            progress.update("lists scored", done, total)


def _slices(lists: Iterable[PassageList]) -> Iterator[pa.Table]:
    waiting: list[PassageList] = []
    pairs = 0
    for each in lists:
        waiting.append(each)
        pairs += len(each.passages)
        if pairs >= _SLICE_PAIRS:
            yield _table(waiting)
            waiting, pairs = [], 0
    if waiting:
        yield _table(waiting)


def _table(lists: Sequence[PassageList]) -> pa.Table:
    columns = zip(*lists, strict=True)
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, _LISTS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_LISTS)


def _running_total(lengths: Iterable[int]) -> Iterator[int]:
    total = 0
    for length in lengths:
        total += length
        yield total
