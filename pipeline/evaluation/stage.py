"""The evaluate stage: rank every judged query with every system, compare, decide, report."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import records, trec
from pipeline.artifact import Artifact
from pipeline.encoder.systems import BASE, DenseSystem, dense_systems
from pipeline.evaluation import gate, hybrid, markdown, metrics, report, significance
from pipeline.evaluation.release import release
from pipeline.lexical.search import open_words
from pipeline.llm.store import totals
from pipeline.mining.search import search_index
from pipeline.queries.read import EVALUATED, judged_queries
from pipeline.rankings import Rankings, to_table
from pipeline.stage import Estimate, StageContext

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from pipeline.recipe import Recipe

BM25 = "BM25"
REPORT, RELEASE = "report", "release.json"
_ASKING = ("queries", "synthesis", "preferences")  # stages that ask the LLM
_VERSIONS = ("rayriever", "ray", "torch", "transformers", "sentence-transformers", "faiss-cpu", "pyarrow")


def systems(stages: Container[str]) -> tuple[str, ...]:
    """Names of the systems that these stages allow to compare, in the order in which they are shown."""
    dense = [name for each in dense_systems(stages) for name in (each.name, *_fused(each))]
    return (BM25, *dense)


def _fused(dense: DenseSystem) -> tuple[str, str]:
    return fused_name(dense.name, "rrf"), fused_name(dense.name, "weighted")


def fused_name(encoder: str, method: str) -> str:
    """Name of the system that fuses BM25 with an encoder; methods as `Fusion` has them."""
    return f"{BM25} + {encoder} ({'RRF' if method == 'rrf' else method})"


def run(ctx: StageContext) -> None:
    """Write tables `hits` and `per_query` and folder `report`: report.md, report.json, release.json, TREC runs."""
    queries = ctx.inputs["queries"].table("queries")
    judgments = ctx.inputs["queries"].table("judgments")
    judged = judged_queries(ctx.inputs["queries"])
    dev = judged.filter(pc.equal(judged["split"], "dev"))["query_id"].to_pylist()
    hits, fusions = _rank(ctx, judged, metrics.judgments_of(judgments, dev))
    ctx.out.table("hits", pa.concat_tables(hits.values()), records.HIT)
    scores = {split: score_split(judged, judgments, hits, split) for split in EVALUATED}
    per_query = pa.concat_tables(s.per_query for by_system in scores.values() for s in by_system.values())
    ctx.out.table("per_query", per_query, records.PER_QUERY)
    _write(ctx, _report(ctx, scores, queries, judgments), hits, fusions)


def _rank(ctx: StageContext, judged: pa.Table, dev: pa.Table) -> tuple[dict[str, pa.Table], dict[str, hybrid.Fusion]]:
    """Rows of `records.HIT` per system, and how each encoder is best fused with BM25."""
    fusions: dict[str, hybrid.Fusion] = {}
    ids, texts = judged["query_id"].to_pylist(), judged["text"].to_pylist()
    top_k, rrf_k = ctx.recipe.evaluate.top_k, ctx.recipe.evaluate.rrf_k
    with open_words(ctx.recipe, ctx.inputs["words"]) as lexical:
        found: dict[str, Rankings] = {BM25: dict(zip(ids, lexical(texts, top_k), strict=True))}
    for each in dense_systems(ctx.inputs):
        index, model = ctx.inputs[each.index], each.model(ctx.inputs)
        hits = search_index(ctx.recipe, index, model, texts, top_k, ctx.progress)
        found[each.name] = dict(zip(ids, hits, strict=True))
        fused = hybrid.fuse(found[BM25], found[each.name], dev, rrf_k, top_k)
        found |= dict(zip(_fused(each), (fused.by_rank, fused.weighted), strict=True))
        fusions[each.name] = fused.fusion
    return {system: to_table(system, rankings) for system, rankings in found.items()}, fusions


def score_split(
    judged: pa.Table, judgments: pa.Table, hits: Mapping[str, pa.Table], split: str
) -> dict[str, metrics.Scores]:
    """What every system reaches on the judged queries of a split."""
    ids = judged.filter(pc.equal(judged["split"], split))["query_id"].to_pylist()
    of_split = metrics.judgments_of(judgments, ids)
    return {system: metrics.score(table, of_split, system) for system, table in hits.items()}


def _report(
    ctx: StageContext, scores: dict[str, dict[str, metrics.Scores]], queries: pa.Table, judgments: pa.Table
) -> report.Report:
    dev, test = scores["dev"], scores["test"]
    _, *trained = dense_systems(ctx.inputs)
    decision = gate.decide(dev[BASE].means, {each.name: dev[each.name].means for each in trained})
    texts = dict(zip(queries["query_id"].to_pylist(), queries["text"].to_pylist(), strict=True))
    examined = decision.chosen if decision.ships else trained[-1].name
    return report.Report(
        title=ctx.recipe.corpus.path,
        passages=ctx.inputs["corpus"].rows("passages"),
        top_k=ctx.recipe.evaluate.top_k,
        systems=tuple(report.SystemFigures(name, dev[name].means, test[name].means) for name in dev),
        contrasts=_contrasts(ctx, scores),
        gate=decision,
        origins=report.origins(queries, judgments),
        llm=llm_use(ctx, _llm_outcomes(ctx)),
        trainings=tuple(training_of(each.name, ctx.inputs[each.training]) for each in trained if each.training),
        changes=report.changes(test[BASE], test[examined], texts),
        stages=tuple(report.StageCost.of(artifact.manifest) for artifact in ctx.inputs.values()),
        versions={"python": platform.python_version(), **{name: _version(name) for name in _VERSIONS}},
    )


def _contrasts(ctx: StageContext, scores: dict[str, dict[str, metrics.Scores]]) -> tuple[report.Contrast, ...]:
    """Every trained encoder against each one before it."""

    def compare(split: str, baseline: str, encoder: str) -> significance.Comparison | None:
        values = metrics.paired_ndcg(scores[split][baseline], scores[split][encoder])
        return significance.compare(*values, ctx.recipe.evaluate.resamples, ctx.recipe.seed)

    names = [each.name for each in dense_systems(ctx.inputs)]
    return tuple(
        report.Contrast(name, baseline, compare("dev", baseline, name), compare("test", baseline, name))
        for place, name in enumerate(names)
        for baseline in names[:place]
    )


def _llm_outcomes(ctx: StageContext) -> dict[str, int]:
    return {
        f"{stage}: {name.replace('_', ' ')}": count
        for stage in _ASKING
        if stage in ctx.inputs
        for name, count in ctx.inputs[stage].manifest.outcomes.items()
    }


def llm_use(ctx: StageContext, outcomes: dict[str, int]) -> report.LlmUse:
    """What the workspace has spent, and what came of it."""
    sums = totals(ctx.workspace)
    return report.LlmUse(sums.sent, sums.answered, sums.tokens_in, sums.tokens_out, outcomes)


def training_of(encoder: str, training: Artifact) -> report.Training:
    rows = training.table("curve", columns=["step", "dev_ndcg_at_10"]).to_pylist()
    return report.Training(
        encoder=encoder,
        steps=training.manifest.outcomes["steps"],
        dev_curve=tuple(
            report.DevScore(row["step"], row["dev_ndcg_at_10"]) for row in rows if row["dev_ndcg_at_10"] is not None
        ),
        chosen_step=training.manifest.outcomes["chosen_step"],
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def _write(
    ctx: StageContext,
    result: report.Report,
    hits: Mapping[str, pa.Table],
    fusions: Mapping[str, hybrid.Fusion],
) -> None:
    with ctx.out.directory(REPORT) as folder:
        (folder / "report.json").write_text(result.to_json(), encoding="utf-8")
        (folder / "report.md").write_text(markdown.render(result), encoding="utf-8")
        released = release(result.gate, ctx.recipe.encoder, ctx.inputs, fusions[result.gate.chosen])
        (folder / RELEASE).write_text(released, encoding="utf-8")
        trec.write_runs(folder, hits)


def last_evaluation(finished: Mapping[str, Artifact]) -> Artifact | None:
    """With the reranker where there is one; None where nothing is evaluated yet."""
    return finished.get("evaluate_reranker", finished.get("evaluate"))


def publish(evaluated: Artifact) -> None:
    """Copy the report and the release to the top of the workspace, where people find them."""
    for name in ("report.md", "report.json", RELEASE):
        evaluated.workspace.write_bytes(evaluated.workspace.path(name), evaluated.file(REPORT, name).read_bytes())


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    rows = upstream["queries"].rows * recipe.evaluate.top_k * len(systems(upstream))
    return Estimate(rows=rows, disk_bytes=rows * 20, note="if every query is evaluated")
