"""The evaluate stage: rank every judged query with five systems, compare, decide, report."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import records
from pipeline.evaluation import fusion, gate, markdown, metrics, report, significance, trec
from pipeline.lexical import bm25
from pipeline.llm.store import totals
from pipeline.rankings import Hit, Rankings, to_table
from pipeline.stage import Estimate, StageContext
from pipeline.workspace import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.recipe import Recipe

BM25, BASE, TUNED = "BM25", "base", "tuned"
BASE_FUSED, TUNED_FUSED = "BM25 + base (RRF)", "BM25 + tuned (RRF)"
SYSTEMS = (BM25, BASE, BASE_FUSED, TUNED, TUNED_FUSED)
REPORT = "report"
_VERSIONS = ("rayriever", "ray", "torch", "transformers", "sentence-transformers", "faiss-cpu", "pyarrow")


def run(ctx: StageContext) -> None:
    """Write tables `hits` and `per_query` and folder `report`: report.md, report.json, release.json, TREC runs."""
    queries = ctx.inputs["queries"].table("queries")
    judgments = ctx.inputs["queries"].table("judgments")
    judged = queries.filter(
        pc.and_(
            pc.is_in(queries["split"], pa.array(["dev", "test"])),
            pc.is_in(queries["query_id"], judgments["query_id"].combine_chunks()),
        )
    ).sort_by("query_id")
    hits = _rank(ctx, judged)
    ctx.out.table("hits", pa.concat_tables(hits.values()), records.HIT)
    scores = {split: _score(judged, judgments, hits, split) for split in ("dev", "test")}
    per_query = pa.concat_tables(s.per_query for by_system in scores.values() for s in by_system.values())
    ctx.out.table("per_query", per_query, records.PER_QUERY)
    _write(ctx, _report(ctx, scores, queries, judgments), hits)


def _rank(ctx: StageContext, judged: pa.Table) -> dict[str, pa.Table]:
    """Rows of `records.HIT` per system."""
    ids, texts = judged["query_id"].to_pylist(), judged["text"].to_pylist()
    top_k, rrf_k = ctx.recipe.evaluate.top_k, ctx.recipe.evaluate.rrf_k
    lexical = bm25.build(ctx.inputs["corpus"].table("passages"), ctx.recipe.lexical)
    found: dict[str, Rankings] = {BM25: dict(zip(ids, lexical.search(texts, top_k), strict=True))}
    model = ctx.inputs["distill"].directory("model")
    found[BASE] = dict(zip(ids, _dense(ctx, ctx.inputs["index_base"], None, texts), strict=True))
    found[TUNED] = dict(zip(ids, _dense(ctx, ctx.inputs["index_tuned"], model, texts), strict=True))
    found[BASE_FUSED] = fusion.fuse_all([found[BM25], found[BASE]], rrf_k, top_k)
    found[TUNED_FUSED] = fusion.fuse_all([found[BM25], found[TUNED]], rrf_k, top_k)
    return {system: to_table(system, found[system]) for system in SYSTEMS}


def _dense(ctx: StageContext, index: Artifact, model: Path | None, texts: list[str]) -> list[list[Hit]]:
    from pipeline.encoder.encode import Encoder
    from pipeline.encoder.model import load_model
    from pipeline.index.search import ShardedIndex
    from pipeline.ray_session import ensure_ray

    section = ctx.recipe.encoder
    ensure_ray(ctx.recipe.ray)
    encoder = Encoder(load_model(section, model), section.dtype, section.tokens_per_batch)
    with ShardedIndex(index) as shards:
        found = shards.search(encoder.encode_queries(texts), ctx.recipe.evaluate.top_k) if texts else []
    ctx.progress.update(f"queries searched, {index.manifest.stage}", len(texts), len(texts))
    return found


def _score(
    judged: pa.Table, judgments: pa.Table, hits: Mapping[str, pa.Table], split: str
) -> dict[str, metrics.Scores]:
    ids = judged.filter(pc.equal(judged["split"], split))["query_id"].to_pylist()
    of_split = metrics.judgments_of(judgments, ids)
    return {system: metrics.score(hits[system], of_split, system) for system in SYSTEMS}


def _report(
    ctx: StageContext, scores: dict[str, dict[str, metrics.Scores]], queries: pa.Table, judgments: pa.Table
) -> report.Report:
    section, seed = ctx.recipe.evaluate, ctx.recipe.seed
    comparisons = {
        split: significance.compare(*metrics.paired_ndcg(by[BASE], by[TUNED]), section.resamples, seed)
        for split, by in scores.items()
    }
    texts = dict(zip(queries["query_id"].to_pylist(), queries["text"].to_pylist(), strict=True))
    gains, losses = report.changes(scores["test"][BASE], scores["test"][TUNED], texts)
    return report.Report(
        title=ctx.recipe.corpus.path,
        passages=ctx.inputs["corpus"].rows("passages"),
        top_k=section.top_k,
        systems=tuple(
            report.SystemFigures(system, scores["dev"][system].means, scores["test"][system].means)
            for system in SYSTEMS
        ),
        dev=comparisons["dev"],
        test=comparisons["test"],
        gate=gate.decide(scores["dev"][BASE].means, scores["dev"][TUNED].means),
        origins=report.origins(queries, judgments),
        llm=_llm_use(ctx),
        training=_training(ctx.inputs["distill"]),
        gains=gains,
        losses=losses,
        stages=tuple(
            report.StageCost(m.stage, m.seconds, m.peak_memory_mb, m.quarantined)
            for m in (artifact.manifest for artifact in ctx.inputs.values())
        ),
        versions={"python": platform.python_version(), **{name: _version(name) for name in _VERSIONS}},
    )


def _llm_use(ctx: StageContext) -> report.LlmUse:
    sums = totals(ctx.workspace)
    outcomes = {
        f"{stage}: {name.replace('_', ' ')}": count
        for stage in ("queries", "synthesis")
        for name, count in ctx.inputs[stage].manifest.outcomes.items()
    }
    return report.LlmUse(sums.sent, sums.answered, sums.tokens_in, sums.tokens_out, outcomes)


def _training(distill: Artifact) -> report.Training:
    rows = distill.table("curve").to_pylist()
    measured = [row for row in rows if row["dev_ndcg_at_10"] is not None]
    return report.Training(
        steps=rows[-1]["step"],
        dev_curve=tuple(report.DevScore(row["step"], row["dev_ndcg_at_10"]) for row in measured),
        chosen_step=distill.manifest.outcomes["chosen_step"],
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def _write(ctx: StageContext, result: report.Report, hits: Mapping[str, pa.Table]) -> None:
    index = ctx.inputs["index_tuned" if result.gate.ships else "index_base"]
    release = {
        "verdict": result.gate.verdict,
        "reason": result.gate.reason,
        # A tuned folder holds its prompts and limits; the base model needs those of the recipe.
        "encoder": {"path": f"{_place(ctx.inputs['distill'])}/model"}
        if result.gate.ships
        else ctx.recipe.encoder.result_fields(),
        "index": f"{_place(index)}/index",
    }
    with ctx.out.directory(REPORT) as folder:
        (folder / "report.json").write_text(result.to_json(), encoding="utf-8")
        (folder / "report.md").write_text(markdown.render(result), encoding="utf-8")
        (folder / "release.json").write_text(json.dumps(release, indent=1) + "\n", encoding="utf-8")
        for system, table in hits.items():
            name = "-".join("".join(c if c.isalnum() else " " for c in system.lower()).split())
            (folder / f"{name}.trec").write_text(trec.to_run(table), encoding="utf-8")


def _place(artifact: Artifact) -> str:
    """Folder of an artifact, relative to the workspace."""
    return f"stages/{artifact.manifest.stage}/{artifact.manifest.identity}"


def publish(evaluated: Artifact) -> None:
    """Copy the report and the release to the top of the workspace, where people find them."""
    for name in ("report.md", "report.json", "release.json"):
        evaluated.workspace.write_bytes(evaluated.workspace.path(name), evaluated.file(REPORT, name).read_bytes())


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    rows = upstream["queries"].rows * recipe.evaluate.top_k * len(SYSTEMS)
    return Estimate(rows=rows, disk_bytes=rows * 20, note="if every query is evaluated")
