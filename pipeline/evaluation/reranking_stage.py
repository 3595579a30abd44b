"""The evaluate_reranker stage: evaluated first stages reranked to several depths, its part of report and release."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline import records, trec
from pipeline.artifact import Artifact
from pipeline.corpus.texts import passage_texts
from pipeline.evaluation import markdown, metrics, significance
from pipeline.evaluation.metrics import Scores
from pipeline.evaluation.report import Report, StageCost
from pipeline.evaluation.reranking import RerankedFigures, Reranking, decide
from pipeline.evaluation.stage import BM25, RELEASE, REPORT, fused_name, llm_use, score_split, training_of
from pipeline.progress import Progress
from pipeline.queries.read import EVALUATED, judged_queries
from pipeline.rankings import Hit, Rankings, from_table, to_table
from pipeline.recipe import Recipe, ScorerSection
from pipeline.stage import Estimate, StageContext

if TYPE_CHECKING:
    from pipeline.evaluation.significance import Comparison

_OWN_STAGES = ("sparse", "candidates", "permutations", "rerank")
_TIMED_QUERIES = 10


def run(ctx: StageContext) -> None:
    """Write tables `hits` and `per_query` and folder `report`, the whole run's with the reranker's part added."""
    judged = judged_queries(ctx.inputs["queries"])
    queries = dict(zip(judged["query_id"].to_pylist(), judged["text"].to_pylist(), strict=True))
    release = json.loads(ctx.inputs["evaluate"].file(REPORT, RELEASE).read_text(encoding="utf-8"))
    firsts = _first_stages(ctx, release)
    depths = tuple(sorted({min(each, ctx.recipe.evaluate.top_k) for each in ctx.recipe.evaluate_reranker.depths}))
    pooled = pool(firsts.values(), max(depths))
    trained = ctx.inputs["rerank"].manifest.place
    scores = dict(score_pool(ctx.recipe, ctx.inputs["corpus"], trained, queries, pooled, ctx.progress))
    systems: dict[str, Rankings] = dict(firsts)
    for name, rankings in firsts.items():
        systems |= {f"{name} reranked {depth}": reranked(rankings, scores, depth) for depth in depths}
    tables = {name: to_table(name, rankings) for name, rankings in systems.items()}
    ctx.out.table("hits", pa.concat_tables(tables.values()), records.HIT)
    judgments = ctx.inputs["queries"].table("judgments")
    measured = {split: score_split(judged, judgments, tables, split) for split in EVALUATED}
    every = [each.per_query for of_split in measured.values() for each in of_split.values()]
    ctx.out.table("per_query", pa.concat_tables(every), records.PER_QUERY)
    result = _reranking(ctx, measured, list(firsts), depths, _latencies(ctx, queries, firsts, depths))
    _write(ctx, result, release, tables)


def _first_stages(ctx: StageContext, release: Mapping[str, object]) -> dict[str, dict[str, list[Hit]]]:
    """BM25, the released encoder, and both fused as the release says; their hits as evaluated."""
    encoder = str(release["chosen"])
    fusion = release["fusion"]
    assert isinstance(fusion, dict)
    hits = ctx.inputs["evaluate"].table("hits")
    return {name: from_table(hits, name) for name in (BM25, encoder, fused_name(encoder, fusion["method"]))}


def pool(systems: Iterable[Rankings], depth: int) -> dict[str, list[str]]:
    """Query id -> passages among the first `depth` hits of any system: each is scored once for all."""
    pooled: dict[str, dict[str, None]] = {}
    for rankings in systems:
        for query_id, hits in rankings.items():
            pooled.setdefault(query_id, {}).update(dict.fromkeys(hit.passage_id for hit in hits[:depth]))
    return {query_id: list(ids) for query_id, ids in pooled.items()}


def score_pool(
    recipe: Recipe,
    corpus: Artifact,
    trained_by: tuple[str, str],
    queries: Mapping[str, str],
    pooled: Mapping[str, Sequence[str]],
    progress: Progress,
) -> Iterator[tuple[str, dict[str, float]]]:
    """(query id, score by passage id), from the reranker that a stage has trained.

    Args:
        trained_by: name and key of that stage.
        queries: texts by id.
        pooled: query id -> passages to score.
    """
    from pipeline.scorer.corpus import score_ids

    for query_id, scores in score_ids(corpus, queries, pooled, recipe.scorer, recipe.ray, progress, trained_by):
        yield query_id, dict(zip(pooled[query_id], scores.tolist(), strict=True))


def reranked(rankings: Rankings, scores: Mapping[str, Mapping[str, float]], depth: int) -> dict[str, list[Hit]]:
    """The first `depth` hits by their new scores, equal ones as before; the others behind them, in their order."""
    found = {}
    for query_id, hits in rankings.items():
        of_query = scores.get(query_id, {})
        head = sorted(hits[:depth], key=lambda hit: -of_query[hit.passage_id])
        order = [*head, *hits[depth:]]
        # The scores of both parts have different units: places stand for them.
        found[query_id] = [Hit(hit.passage_id, float(len(order) - place)) for place, hit in enumerate(order)]
    return found


@dataclass(frozen=True)
class _Timing:
    """What a worker needs to time the reranker."""

    section: ScorerSection
    trained_by: tuple[str, str]
    workspace: str
    lists: list[tuple[str, list[str]]]  # query, texts of its hits, as many as the deepest depth
    depths: tuple[int, ...]


def _latencies(
    ctx: StageContext, queries: Mapping[str, str], firsts: Mapping[str, Rankings], depths: tuple[int, ...]
) -> dict[int, float]:
    """Milliseconds by depth: median over some queries, one after the other, on what a scorer actor has."""
    import ray

    from pipeline.placement import Demand, place_task
    from pipeline.ray_session import explained_ray_errors

    *_, deepest = firsts.values()
    timed = list(queries)[:_TIMED_QUERIES]
    wanted = {hit.passage_id for i in timed for hit in deepest.get(i, [])[: max(depths)]}
    texts = passage_texts(ctx.inputs["corpus"], wanted)
    lists = [(queries[i], [texts[hit.passage_id] for hit in deepest.get(i, [])[: max(depths)]]) for i in timed]
    section = ctx.recipe.scorer
    timing = _Timing(section, ctx.inputs["rerank"].manifest.place, ctx.workspace.uri, lists, depths)
    demand = Demand.of(section.placement, section.cpus_per_actor, section.gpus_per_actor)
    task = ray.remote(**place_task("scorer: timing", demand, "Change scorer.gpus_per_actor, scorer.placement"))(_time)
    with explained_ray_errors("scorer: a task", "One killed for memory needs a smaller scorer.tokens_per_batch."):
        found: dict[int, float] = ray.get(task.remote(timing))
        return found


def _time(timing: _Timing) -> dict[int, float]:
    import torch

    from pipeline.encoder.model import best_device, trained_folder
    from pipeline.scorer.load import load_scorer_model
    from pipeline.scorer.score import Scorer

    section = timing.section
    torch.set_num_threads(max(1, int(section.cpus_per_actor)))
    model = load_scorer_model(section, trained_folder(timing.workspace, timing.trained_by))
    scorer = Scorer(model, section.dtype, section.tokens_per_batch, best_device(section.gpus_per_actor))
    scorer.score("warm", ["up"])
    medians = {}
    for depth in timing.depths:
        seconds = []
        for query, passages in timing.lists:
            began = time.perf_counter()
            scorer.score(query, passages[:depth])
            seconds.append(time.perf_counter() - began)
        medians[depth] = round(1000 * statistics.median(seconds), 1) if seconds else 0.0
    return medians


def _reranking(
    ctx: StageContext,
    measured: Mapping[str, Mapping[str, Scores]],
    firsts: Sequence[str],
    depths: Sequence[int],
    latency: Mapping[int, float],
) -> Reranking:
    dev, test = measured["dev"], measured["test"]

    def compare(split: str, baseline: str, system: str) -> Comparison | None:
        values = metrics.paired_ndcg(measured[split][baseline], measured[split][system])
        return significance.compare(*values, ctx.recipe.evaluate.resamples, ctx.recipe.seed)

    rows = tuple(
        RerankedFigures(
            first,
            depth,
            dev[f"{first} reranked {depth}"].means,
            test[f"{first} reranked {depth}"].means,
            compare("dev", first, f"{first} reranked {depth}"),
            compare("test", first, f"{first} reranked {depth}"),
            latency[depth],
        )
        for first in firsts
        for depth in depths
    )
    alone = {first: dev[first].means for first in firsts}
    best = max(firsts, key=lambda first: means.ndcg_at_10 if (means := alone[first]) else 0.0)
    to_best = {
        (row.first_stage, row.depth): compare("dev", best, f"{row.first_stage} reranked {row.depth}") for row in rows
    }
    outcomes = ctx.inputs["permutations"].manifest.outcomes
    lists = {name.removeprefix("lists_"): n for name, n in outcomes.items() if name in _TEACHERS and n}
    return Reranking(_sources(ctx), lists, rows, decide(alone, rows, to_best))


_TEACHERS = tuple(f"lists_{teacher}" for teacher in ("recorded", "listwise", "setwise", "fusion"))


def _sources(ctx: StageContext) -> tuple[str, ...]:
    if "candidates" not in ctx.inputs:
        return ()
    named = ctx.inputs["candidates"].manifest.outcomes
    return tuple(name.removeprefix("lists_with_") for name in named if name.startswith("lists_with_"))


def _write(ctx: StageContext, result: Reranking, release: Mapping[str, object], tables: Mapping[str, pa.Table]) -> None:
    whole = Report.from_json(ctx.inputs["evaluate"].file(REPORT, "report.json").read_text(encoding="utf-8"))
    taught = ctx.inputs["permutations"].manifest.outcomes
    asked = {f"permutations: {name.replace('_', ' ')}": count for name, count in taught.items()}
    costs = (StageCost.of(ctx.inputs[name].manifest) for name in _OWN_STAGES if name in ctx.inputs)
    whole = replace(
        whole,
        reranking=result,
        trainings=(*whole.trainings, training_of("reranker", ctx.inputs["rerank"])),
        llm=llm_use(ctx, whole.llm.outcomes | asked),
        stages=(*whole.stages, *costs),
    )
    with ctx.out.directory(REPORT) as folder:
        (folder / "report.json").write_text(whole.to_json(), encoding="utf-8")
        (folder / "report.md").write_text(markdown.render(whole), encoding="utf-8")
        trained = ctx.inputs["rerank"].manifest
        place = f"stages/{trained.stage}/{trained.identity}/model"
        about = {**asdict(result.gate), "path": place if result.gate.ships else None, "trained": place}
        told = {**release, "reranker": about}
        (folder / RELEASE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        trec.write_runs(folder, tables)


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    pairs = upstream["queries"].rows * 2 * max(recipe.evaluate_reranker.depths)
    return Estimate(rows=pairs, disk_bytes=pairs * 20, note="pairs scored, if every query is evaluated")
