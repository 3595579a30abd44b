"""The teach stage: what BM25 and the base encoder, fused, rank for train queries and for LLM-written sentences.

The fused ranking is better than either of its parts, needs no judgment, and knows the corpus's own words; learning its
lists teaches the encoder what it lacks. Sentences of the LLM's decompositions and passages are queries in the words of
the field, as many as one likes: listwise distillation over mixed kinds of queries is what helps encoders that plain
contrastive tuning harms (arXiv 2502.19712).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.fusion import weighted_sum
from pipeline.lexical.search import WordSearch, open_words
from pipeline.mining.search import Search, open_search
from pipeline.recipe import Recipe, TeacherSection
from pipeline.records import TAUGHT
from pipeline.scorer.named import shipped_reranker
from pipeline.stage import Estimate, StageContext

# Hits of each side that are fused: deep enough that the fused top is that of the whole corpus, nearly always.
_DEPTH = 200
# Queries searched together: bounds the memory for their hits.
_BLOCK = 1024
_SENTENCES_PER_DOCUMENT = 5
_KEY = "teacher.reranker"


@dataclass(frozen=True)
class Taught:
    """A text that becomes a query of the teacher."""

    query_id: str
    kind: str
    text: str


def run(ctx: StageContext) -> None:
    """Write table `taught`: the teacher's list for every train query and every sentence."""
    section = ctx.recipe.teacher
    assert section is not None, "there is no teach stage without the section"
    texts = [*_queries(ctx), *_sentences(ctx, section)]
    for each in texts:
        ctx.out.outcomes[f"taught_{each.kind}"] += 1
    if not texts:
        ctx.out.table("taught", TAUGHT.empty_table(), TAUGHT)
        return
    with (
        open_words(ctx.recipe, ctx.inputs["words"]) as lexical,
        open_search(ctx.recipe, ctx.inputs["index_base"], None) as search,
    ):
        blocks = _blocks(ctx, texts, search, lexical, section)
        if section.reranker is None:
            ctx.out.table("taught", blocks, TAUGHT)
            return
        fused = pa.concat_tables(list(blocks))
    # The shards have given their CPUs back: the reranker's actors may need all there are.
    ctx.out.table("taught", _rescored(ctx, fused, section, section.reranker), TAUGHT)


def _rescored(ctx: StageContext, taught: pa.Table, section: TeacherSection, reranker: str) -> Iterator[pa.Table]:
    """The lists with the scores of a reranker, best first: of its lists the retriever learns to reproduce the order."""
    from pipeline.scorer.corpus import score_ids

    scorer = ctx.recipe.scorer.model_copy(update={"model": shipped_reranker(reranker, _KEY), "kind": "auto"})
    texts = {str(number): text for number, text in enumerate(taught["text"].to_pylist())}
    ids = dict(zip(texts, taught["passage_ids"].to_pylist(), strict=True))
    scores = dict(score_ids(ctx.inputs["corpus"], texts, ids, scorer, ctx.recipe.ray, ctx.progress))
    for start in range(0, taught.num_rows, _BLOCK):
        rows = taught.slice(start, _BLOCK).to_pylist()
        for number, row in enumerate(rows, start=start):
            pairs = zip((section.reranker_scale * scores[str(number)]).tolist(), row["passage_ids"], strict=True)
            ranked = sorted(pairs, key=lambda pair: -pair[0])
            row["scores"], row["passage_ids"] = [score for score, _ in ranked], [i for _, i in ranked]
        yield pa.Table.from_pylist(rows, schema=TAUGHT)


def _queries(ctx: StageContext) -> Iterator[Taught]:
    queries = ctx.inputs["queries"].table("queries")
    for row in queries.filter(pc.equal(queries["split"], "train")).sort_by("query_id").to_pylist():
        yield Taught(row["query_id"], "query", row["text"])


def _sentences(ctx: StageContext, section: TeacherSection) -> Iterator[Taught]:
    """A passage that failed its check may say something false, but is still about the field."""
    for row in ctx.inputs["synthesis"].table("synthesis").sort_by("query_id").to_pylist():
        for kind in section.written:
            for sentence in sentences(row[kind] or "", section.min_words):
                yield Taught(row["query_id"], kind, sentence)


def sentences(text: str, min_words: int) -> list[str]:
    """Sentences of enough words, without list numbers."""
    parts = (re.sub(r"^\s*(?:\d+[.)]|[-*])\s+", "", part).strip() for part in re.split(r"(?<=[.?!])\s+|\n+", text))
    return [part for part in parts if len(part.split()) >= min_words]


def _blocks(
    ctx: StageContext, texts: Sequence[Taught], search: Search, lexical: WordSearch, section: TeacherSection
) -> Iterator[pa.Table]:
    for start in range(0, len(texts), _BLOCK):
        block = texts[start : start + _BLOCK]
        asked = [each.text for each in block]
        pairs = zip(search(asked, _DEPTH), lexical(asked, _DEPTH), strict=True)
        lists = [weighted_sum(dense, words, section.lexical_weight, section.top_k) for dense, words in pairs]
        rows = [
            vars(each) | {"passage_ids": [hit.passage_id for hit in hits], "scores": [hit.score for hit in hits]}
            for each, hits in zip(block, lists, strict=True)
        ]
        yield pa.Table.from_pylist(rows, schema=TAUGHT)
        ctx.progress.update("queries taught", start + len(block), len(texts))


def external(recipe: Recipe) -> Any:
    """Stands for a reranker that teaches: its weights, and how it reads."""
    from pipeline.models import locate

    named = None if recipe.teacher is None else recipe.teacher.reranker
    if named is None:
        return None
    return {"model": locate(shipped_reranker(named, _KEY)).fingerprint, "scorer": recipe.scorer.reading_fields()}


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    section = recipe.teacher
    assert section is not None, "there is no teach stage without the section"
    sentences_per_query = len(section.written) * _SENTENCES_PER_DOCUMENT
    rows = upstream["queries"].rows + upstream["synthesis"].rows * sentences_per_query
    return Estimate(rows=rows, disk_bytes=rows * section.top_k * 16, note=f"{_SENTENCES_PER_DOCUMENT} sentences each")
