"""The ordered stages of a recipe, and the key under which each one's result is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.corpus import estimate as corpus_estimate
from pipeline.corpus import stage as corpus
from pipeline.digest import digest
from pipeline.encoder import corpus as encode
from pipeline.evaluation import reranking_stage as reranking_evaluation
from pipeline.evaluation import stage as evaluation
from pipeline.index import build as index
from pipeline.lexical import stage as lexical
from pipeline.mining import stage as mining
from pipeline.mining import teacher
from pipeline.preferences import stage as preferences
from pipeline.queries import stage as queries
from pipeline.recipe import Recipe
from pipeline.reranking import candidates
from pipeline.reranking import stage as reranking
from pipeline.rounds import encoder_in_rounds, reranker_in_rounds
from pipeline.sparse import stage as sparse
from pipeline.stage import Stage
from pipeline.synthesis import stage as synthesis
from pipeline.training import align, distill, rerank

_EVERY_STAGE: tuple[Stage, ...] = (
    Stage(
        name="corpus",
        summary="files to passages",
        inputs=(),
        sections=("corpus",),
        version=1,
        run=corpus.run,
        estimate=corpus_estimate.estimate,
        observe=corpus_estimate.observe,
        external=corpus.external,
    ),
    Stage(
        name="words",
        summary="BM25 shards of the passages",
        inputs=("corpus",),
        sections=("lexical",),
        version=1,
        run=lexical.run,
        estimate=lexical.estimate,
    ),
    Stage(
        name="queries",
        summary="given or generated queries, labelled and split",
        inputs=("corpus", "words"),
        sections=("queries", "seed"),
        version=2,
        run=queries.run,
        estimate=queries.estimate,
        observe=queries.observe,
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
        version=2,
        run=encode.run_base,
        estimate=encode.estimate,
        external=encode.external,
        goes_on=True,
    ),
    Stage(
        name="index_base",
        summary="FAISS shards of the base vectors",
        inputs=("encode_base",),
        sections=("index",),
        version=2,
        run=index.run_base,
        estimate=index.estimate,
    ),
    Stage(
        name="mine",
        summary="hard negatives from the base encoder's hits",
        inputs=("corpus", "queries", "index_base"),
        sections=("negatives", "encoder"),
        version=2,
        run=mining.run,
        estimate=mining.estimate,
        needs="negatives",
    ),
    Stage(
        name="teach",
        summary="lists that BM25 and the base encoder rank together",
        inputs=("corpus", "words", "queries", "synthesis", "index_base"),
        sections=("teacher", "encoder"),
        version=2,
        run=teacher.run,
        estimate=teacher.estimate,
        external=teacher.external,
        needs="teacher",
    ),
    Stage(
        name="distill",
        summary="stage 1: training on labels, synthetic documents and a teacher's lists",
        inputs=("corpus", "queries", "synthesis", "mine", "teach"),
        sections=("distill", "encoder", "seed"),
        version=3,
        run=distill.run,
        estimate=distill.estimate,
        external=distill.external,
    ),
    Stage(
        name="encode_tuned",
        summary="passages to vectors of the tuned encoder",
        inputs=("corpus", "distill"),
        sections=("encoder",),
        version=2,
        run=encode.run_tuned,
        estimate=encode.estimate,
        external=encode.external,
        goes_on=True,
    ),
    Stage(
        name="index_tuned",
        summary="FAISS shards of the tuned vectors",
        inputs=("encode_tuned",),
        sections=("index",),
        version=2,
        run=index.run_tuned,
        estimate=index.estimate,
    ),
    Stage(
        name="preferences",
        summary="the LLM's choices among the tuned encoder's hits",
        inputs=("corpus", "queries", "distill", "index_tuned"),
        sections=("preferences", "encoder", "seed"),
        version=2,
        run=preferences.run,
        estimate=preferences.estimate,
        external=preferences.external,
        needs="preferences",
    ),
    Stage(
        name="align",
        summary="stage 2: training on preferences",
        inputs=("corpus", "queries", "distill", "preferences"),
        sections=("align", "distill", "encoder", "seed"),
        version=2,
        run=align.run,
        estimate=distill.estimate,
        needs="align",
    ),
    Stage(
        name="encode_aligned",
        summary="passages to vectors of the aligned encoder",
        inputs=("corpus", "align"),
        sections=("encoder",),
        version=2,
        run=encode.run_aligned,
        estimate=encode.estimate,
        external=encode.external,
        goes_on=True,
        needs="align",
    ),
    Stage(
        name="index_aligned",
        summary="FAISS shards of the aligned vectors",
        inputs=("encode_aligned",),
        sections=("index",),
        version=2,
        run=index.run_aligned,
        estimate=index.estimate,
        needs="align",
    ),
    Stage(
        name="sparse",
        summary="weighted terms of the passages, in shards",
        inputs=("corpus",),
        sections=("sparse",),
        version=1,
        run=sparse.run,
        estimate=sparse.estimate,
        external=sparse.external,
        needs="sparse",
    ),
    Stage(
        name="candidates",
        summary="what several retrievers find for the reranker's queries",
        inputs=(
            "corpus",
            "words",
            "queries",
            "sparse",
            "index_base",
            "distill",
            "index_tuned",
            "align",
            "index_aligned",
        ),
        sections=("candidates", "encoder", "seed"),
        version=1,
        run=candidates.run,
        estimate=candidates.estimate,
        external=candidates.external,
        needs="candidates",
    ),
    Stage(
        name="permutations",
        summary="the teacher's order of these candidates, or a recorded one",
        inputs=("corpus", "queries", "candidates"),
        sections=("permutations", "seed"),
        version=1,
        run=reranking.run,
        estimate=reranking.estimate,
        external=reranking.external,
        needs="permutations",
    ),
    Stage(
        name="rerank",
        summary="training of the reranker on the teacher's lists",
        inputs=(
            "corpus",
            "words",
            "queries",
            "permutations",
            "index_base",
            "distill",
            "index_tuned",
            "align",
            "index_aligned",
        ),
        sections=("rerank", "scorer", "encoder", "seed"),
        version=1,
        run=rerank.run,
        estimate=rerank.estimate,
        external=rerank.external,
        needs="rerank",
    ),
    Stage(
        name="evaluate",
        summary="rankings, comparison, gate, report",
        inputs=(
            "corpus",
            "words",
            "queries",
            "synthesis",
            "encode_base",
            "index_base",
            "distill",
            "encode_tuned",
            "index_tuned",
            "preferences",
            "align",
            "encode_aligned",
            "index_aligned",
        ),
        sections=("evaluate", "encoder", "seed"),
        version=3,
        run=evaluation.run,
        estimate=evaluation.estimate,
    ),
    Stage(
        name="evaluate_reranker",
        summary="first stages and the same reranked, gate, report",
        inputs=("corpus", "queries", "sparse", "candidates", "permutations", "rerank", "evaluate"),
        sections=("evaluate_reranker", "evaluate", "scorer", "seed"),
        version=1,
        run=reranking_evaluation.run,
        estimate=reranking_evaluation.estimate,
        needs="rerank",
    ),
)


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that the recipe asks for, in order, each reading those that are there."""
    every = encoder_in_rounds(_EVERY_STAGE, 1 if recipe.negatives is None else recipe.negatives.rounds)
    every = reranker_in_rounds(every, 1 if recipe.rerank is None else recipe.rerank.rounds)
    chosen = [stage for stage in every if stage.needs is None or getattr(recipe, stage.needs) is not None]
    names = {stage.name for stage in chosen}
    return tuple(replace(stage, inputs=tuple(n for n in stage.inputs if n in names)) for stage in chosen)


def relevant_section(stage: Stage, recipe: Recipe) -> dict[str, Any]:
    """The recipe values that the stage's result depends on, and the fingerprint of what it reads from outside."""
    values: dict[str, Any] = {}
    for name in stage.sections:
        section = getattr(recipe, name)
        values[name] = section.result_fields() if hasattr(section, "result_fields") else section
    external = None if stage.external is None else stage.external(recipe)
    return values if external is None else values | {"external": external}


def stage_key(stage: Stage, section: Mapping[str, Any], input_keys: Mapping[str, str]) -> str:
    """Equal keys mean equal results: made of the stage's version, its recipe values and its inputs' keys."""
    return digest({"stage": stage.name, "version": stage.version, "section": section, "inputs": input_keys})
