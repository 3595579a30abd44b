"""The ordered stages of a run, and the key under which each one's result is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.corpus import estimate as corpus_estimate
from pipeline.corpus import stage as corpus
from pipeline.encoder import corpus as encode
from pipeline.evaluation import stage as evaluation
from pipeline.index import build as index
from pipeline.queries import stage as queries
from pipeline.recipe import Recipe
from pipeline.stage import Stage
from pipeline.synthesis import stage as synthesis
from pipeline.training import distill
from pipeline.workspace import digest

STAGES: tuple[Stage, ...] = (
    Stage(
        name="corpus",
        summary="files to passages",
        inputs=(),
        sections=("corpus",),
        version=1,
        run=corpus.run,
        estimate=corpus_estimate.estimate,
        external=corpus.external,
    ),
    Stage(
        name="queries",
        summary="given or generated queries, labelled and split",
        inputs=("corpus",),
        sections=("queries", "lexical", "seed"),
        version=1,
        run=queries.run,
        estimate=queries.estimate,
        external=queries.external,
    ),
    Stage(
        name="synthesis",
        summary="documents that the LLM writes and verifies for train queries",
        inputs=("corpus", "queries"),
        sections=("synthesis", "seed"),
        version=1,
        run=synthesis.run,
        estimate=synthesis.estimate,
        external=synthesis.external,
    ),
    Stage(
        name="encode_base",
        summary="passages to vectors of the base encoder",
        inputs=("corpus",),
        sections=("encoder",),
        version=1,
        run=encode.run_base,
        estimate=encode.estimate,
        external=encode.external,
    ),
    Stage(
        name="index_base",
        summary="FAISS shards of the base vectors",
        inputs=("encode_base",),
        sections=("index",),
        version=1,
        run=index.run_base,
        estimate=index.estimate,
    ),
    Stage(
        name="distill",
        summary="training on Ray Train",
        inputs=("corpus", "queries", "synthesis"),
        sections=("distill", "encoder", "seed"),
        version=1,
        run=distill.run,
        estimate=distill.estimate,
        external=encode.external,
    ),
    Stage(
        name="encode_tuned",
        summary="passages to vectors of the tuned encoder",
        inputs=("corpus", "distill"),
        sections=("encoder",),
        version=1,
        run=encode.run_tuned,
        estimate=encode.estimate,
        external=encode.external,
    ),
    Stage(
        name="index_tuned",
        summary="FAISS shards of the tuned vectors",
        inputs=("encode_tuned",),
        sections=("index",),
        version=1,
        run=index.run_tuned,
        estimate=index.estimate,
    ),
    Stage(
        name="evaluate",
        summary="rankings, comparison, gate, report",
        inputs=(
            "corpus",
            "queries",
            "synthesis",
            "encode_base",
            "index_base",
            "distill",
            "encode_tuned",
            "index_tuned",
        ),
        sections=("evaluate", "lexical", "encoder", "seed"),
        version=1,
        run=evaluation.run,
        estimate=evaluation.estimate,
    ),
)

NAMES = tuple(stage.name for stage in STAGES)


def relevant_section(stage: Stage, recipe: Recipe) -> dict[str, Any]:
    """The recipe values that the stage's result depends on, and the fingerprint of what it reads from outside."""
    values: dict[str, Any] = {}
    for name in stage.sections:
        section = getattr(recipe, name)
        values[name] = section.result_fields() if hasattr(section, "result_fields") else section
    if stage.external is not None:
        values["external"] = stage.external(recipe)
    return values


def stage_key(stage: Stage, section: Mapping[str, Any], input_keys: Mapping[str, str]) -> str:
    """Equal keys mean equal results: made of the stage's version, its recipe values and its inputs' keys."""
    return digest({"stage": stage.name, "version": stage.version, "section": section, "inputs": input_keys})
