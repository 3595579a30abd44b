"""The synthesis stage: four LLM calls per train query (Kim & Baek 2025, section 2.2)."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.llm.complete import complete
from pipeline.llm.prompts import render
from pipeline.llm.requests import Messages, Sampling, answer_fingerprint, build, model_identity
from pipeline.recipe import Recipe
from pipeline.records import SYNTHESIS
from pipeline.stage import Estimate, StageContext
from pipeline.synthesis.parsing import parse_document
from pipeline.synthesis.verification import verify

DOCUMENTS = ("decomposition", "positive", "negative")
_WORDS = (25, 150)  # bounds of the corpus's median, so that one odd corpus does not ask for a word or a book
_TOKENS_PER_WORD = 1.6
_VERDICT_TOKENS = 8
_PROMPT_TOKENS = 90  # instruction and a query of ordinary length


def run(ctx: StageContext) -> None:
    """Write table `synthesis`: one row per train query that was chosen."""
    queries = _choose(ctx)
    if not queries:
        ctx.out.table("synthesis", SYNTHESIS.empty_table(), SYNTHESIS)
        return
    words = ctx.recipe.synthesis.words or _median_words(ctx)
    documents = _write_documents(ctx, queries, words)
    verdicts = verify(ctx, queries, documents["positive"])
    rows = [
        {
            "query_id": query_id,
            "decomposition": documents["decomposition"].get(query_id),
            "positive": documents["positive"].get(query_id),
            "negative": documents["negative"].get(query_id),
            "verdict": verdicts[query_id].verdict,
            "outcome": verdicts[query_id].outcome,
        }
        for query_id in queries
    ]
    ctx.out.table("synthesis", pa.Table.from_pylist(rows, schema=SYNTHESIS), SYNTHESIS)


def _choose(ctx: StageContext) -> dict[str, str]:
    """Train queries that get documents: all, or a seeded sample of `max_queries`. Sentence crops ask nothing."""
    table = ctx.inputs["queries"].table("queries")
    table = table.filter(pc.and_(pc.equal(table["split"], "train"), pc.not_equal(table["kind"], "crop")))
    rows = table.sort_by("query_id").to_pylist()
    limit = ctx.recipe.synthesis.max_queries
    if limit is not None and limit < len(rows):
        chosen = random.Random(ctx.recipe.seed).sample(range(len(rows)), limit)
        rows = [rows[number] for number in sorted(chosen)]
    return {row["query_id"]: row["text"] for row in rows}


def _median_words(ctx: StageContext) -> int:
    """Synthetic passages as long as the corpus's own, or length alone would tell them apart."""
    texts = ctx.inputs["corpus"].table("passages", columns=["text"])["text"]
    lengths = pc.list_value_length(pc.utf8_split_whitespace(texts)).to_pylist()
    low, high = _WORDS
    return min(high, max(low, round(statistics.median(lengths)))) if lengths else low


def conversations(section_decomposition: str, queries: Sequence[str], words: int) -> dict[str, list[Messages]]:
    """Prompts per document kind. The LLM sees the query alone: no passage of the corpus, no example."""
    templates = templates_of(section_decomposition)
    return {
        kind: [render(template, query=query, words=words) for query in queries] for kind, template in templates.items()
    }


def templates_of(decomposition: str) -> dict[str, str]:
    """Prompt template per document kind."""
    return {"decomposition": f"decomposition_{decomposition}", "positive": "positive", "negative": "negative"}


def _write_documents(ctx: StageContext, queries: Mapping[str, str], words: int) -> dict[str, dict[str, str]]:
    section, identity = ctx.recipe.synthesis, model_identity(ctx.recipe.llm)
    sampling = Sampling(section.temperature, max_tokens(words))
    prompts = conversations(section.decomposition, list(queries.values()), words)
    requests = pa.concat_tables(build(identity, kind, prompts[kind], sampling) for kind in DOCUMENTS)
    recipe = ctx.recipe
    responses = complete(requests, recipe.llm, ctx.workspace, recipe.ray, ctx.progress, "documents written").to_pylist()
    written: dict[str, dict[str, str]] = {}
    for place, kind in enumerate(DOCUMENTS):
        answers = responses[place * len(queries) : (place + 1) * len(queries)]
        written[kind] = _parse(ctx, kind, dict(zip(queries, answers, strict=True)))
    return written


def _parse(ctx: StageContext, kind: str, answers: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    texts = {}
    for query_id, answer in answers.items():
        text = None if answer["error"] else parse_document(answer["text"], answer["finish_reason"])
        if text is not None:
            texts[query_id] = text
        outcome = "error" if answer["error"] else "unparseable" if text is None else "ok"
        ctx.out.outcomes[f"{kind}_{outcome}"] += 1
    return texts


def max_tokens(words: int) -> int:
    """Room for the words asked for, and some more for a model that does not count well."""
    return round(words * _TOKENS_PER_WORD * 1.25)


def external(recipe: Recipe) -> Any:
    """Fingerprint of the model and the prompts; None where nothing is asked."""
    if recipe.synthesis.max_queries == 0:
        return None
    templates = (*templates_of(recipe.synthesis.decomposition).values(), "verdict", "verdict_again")
    return answer_fingerprint(recipe.llm, templates)


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    section = recipe.synthesis
    rows = min(
        upstream["queries"].rows, upstream["queries"].rows if section.max_queries is None else section.max_queries
    )
    words = section.words or _WORDS[1]
    document = round(words * _TOKENS_PER_WORD)
    verdicts = rows if section.verify else 0
    return Estimate(
        rows=rows,
        disk_bytes=rows * words * 3 * 6,
        llm_requests=rows * len(DOCUMENTS) + verdicts,
        llm_tokens_in=rows * len(DOCUMENTS) * _PROMPT_TOKENS + verdicts * (_PROMPT_TOKENS + document),
        llm_tokens_out=rows * len(DOCUMENTS) * document + verdicts * 2,
        note="" if section.words else f"passages of at most {_WORDS[1]} words",
    )
