"""The synthesis stage: four LLM calls per train query (Kim & Baek 2025, section 2.2), or their recorded answers."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifact import Artifact
from pipeline.errors import RayrieverError
from pipeline.llm.ask import ask
from pipeline.llm.forecast import Expected, forecast, prose
from pipeline.llm.parsers import TEXTS
from pipeline.llm.prompts import Prompt, answer_fingerprint, load
from pipeline.llm.requests import Messages, Request
from pipeline.recipe import Recipe
from pipeline.records import SYNTHESIS
from pipeline.stage import Estimate, StageContext
from pipeline.synthesis.lengths import match_lengths
from pipeline.synthesis.recorded import read_recorded, recorded_fingerprint
from pipeline.synthesis.verification import Verification, adopt, relevant_negatives, verify

DOCUMENTS = ("decomposition", "positive", "negative")
_WORDS = (25, 150)  # bounds of the corpus's median, so that one odd corpus does not ask for a word or a book
_TOKENS_PER_WORD = 1.6
_VERDICT_TOKENS = 2  # of "yes" or "no"
_QUERY_WORDS = 12  # of a query that is not there yet


def run(ctx: StageContext) -> None:
    """Write table `synthesis`: one row per train query that was chosen.

    With recorded answers, the chosen ones are among the queries that have any. Raises RayrieverError where they
    cannot be used.
    """
    if ctx.recipe.synthesis.max_queries == 0:
        ctx.out.table("synthesis", SYNTHESIS.empty_table(), SYNTHESIS)
        return
    made = _recorded(ctx) if ctx.recipe.synthesis.path is not None else _asked(ctx)
    rows = [
        {
            "query_id": query_id,
            **{kind: made.documents[kind].get(query_id) for kind in DOCUMENTS},
            "verdict": verification.verdict,
            "outcome": verification.outcome,
        }
        for query_id, verification in made.verifications.items()
    ]
    ctx.out.table("synthesis", pa.Table.from_pylist(rows, schema=SYNTHESIS), SYNTHESIS)


@dataclass(frozen=True)
class _Synthesis:
    documents: dict[str, dict[str, str]]  # kind -> query id -> text
    verifications: dict[str, Verification]  # of every chosen query


def _recorded(ctx: StageContext) -> _Synthesis:
    train = _train_queries(ctx)
    answers = read_recorded(ctx, train)
    ctx.out.outcomes["train_queries_without_record"] += len(train) - len(answers)
    queries = _choose(ctx, {query_id: text for query_id, text in train.items() if query_id in answers})
    documents = {
        kind: {i: text for i in queries if (text := answers[i].documents.get(kind)) is not None} for kind in DOCUMENTS
    }
    for kind, texts in documents.items():
        ctx.out.outcomes[f"{kind}_recorded"] += len(texts)
    documents = _matched(ctx, documents)
    verified = {i: passed for i in queries if (passed := answers[i].verified) is not None}
    return _Synthesis(documents, adopt(ctx, queries, documents["positive"], verified))


def _asked(ctx: StageContext) -> _Synthesis:
    queries = _choose(ctx, _train_queries(ctx, crops=False))
    if not queries:
        return _Synthesis({kind: {} for kind in DOCUMENTS}, {})
    words = words_of(ctx.recipe, ctx.inputs)
    # Cut before they are judged: a verdict is about the text that is trained on.
    documents = _matched(ctx, _write_documents(ctx, queries, words))
    verifications = verify(ctx, queries, documents["positive"])
    if ctx.recipe.synthesis.check_negatives:
        relevant = relevant_negatives(ctx, queries, documents["negative"])
        ctx.out.outcomes["negative_dropped"] += len(relevant)
        documents["negative"] = {i: text for i, text in documents["negative"].items() if i not in relevant}
    return _Synthesis(documents, verifications)


def _matched(ctx: StageContext, documents: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return match_lengths(documents, ctx.out.outcomes) if ctx.recipe.synthesis.match_length else documents


def _train_queries(ctx: StageContext, crops: bool = True) -> dict[str, str]:
    """Id -> text, in order of ids. The LLM is not asked about crops: they are sentences of passages, no questions."""
    table = ctx.inputs["queries"].table("queries")
    table = table.filter(pc.equal(table["split"], "train"))
    if not crops:
        table = table.filter(pc.not_equal(table["kind"], "crop"))
    table = table.sort_by("query_id")
    return dict(zip(table["query_id"].to_pylist(), table["text"].to_pylist(), strict=True))


def _choose(ctx: StageContext, queries: dict[str, str]) -> dict[str, str]:
    """Queries that get documents: all, or a seeded sample of `max_queries`, in their order."""
    limit = ctx.recipe.synthesis.max_queries
    if limit is None or limit >= len(queries):
        return queries
    ids = list(queries)
    chosen = random.Random(ctx.recipe.seed).sample(range(len(ids)), limit)
    return {ids[number]: queries[ids[number]] for number in sorted(chosen)}


def words_of(recipe: Recipe, finished: Mapping[str, Artifact]) -> int:
    """Words to ask for: as long as the corpus's own passages, or length alone would tell synthetic ones apart."""
    if recipe.synthesis.words is not None:
        return recipe.synthesis.words
    return _median_words(finished["corpus"].table("passages", columns=["text"])["text"])


def _median_words(texts: pa.ChunkedArray) -> int:
    lengths = pc.list_value_length(pc.utf8_split_whitespace(texts)).to_pylist()
    low, high = _WORDS
    return min(high, max(low, round(statistics.median(lengths)))) if lengths else low


def _tasks(decomposition: str) -> dict[str, str]:
    """Prompt per document kind."""
    return {"decomposition": f"decomposition_{decomposition}", "positive": "positive", "negative": "negative"}


def _prompts(recipe: Recipe) -> dict[str, Prompt]:
    return {kind: load(task, recipe.llm) for kind, task in _tasks(recipe.synthesis.decomposition).items()}


def document_requests(recipe: Recipe, queries: Iterable[str], words: int) -> Iterator[Request]:
    """One request per kind of document, in the order of DOCUMENTS, for each query in turn.

    The LLM sees the query alone: no passage of the corpus, no example.
    """
    prompts = _prompts(recipe)
    for query in queries:
        for kind, prompt in prompts.items():
            sampling = prompt.sampling(recipe.synthesis.temperature, max_tokens(words))
            yield Request(kind, prompt.messages(query=query, words=words), sampling)


def _write_documents(ctx: StageContext, queries: Mapping[str, str], words: int) -> dict[str, dict[str, str]]:
    """Documents by kind and query id."""
    recipe = ctx.recipe
    prompts = _prompts(recipe)
    answers = ask(ctx, document_requests(recipe, queries.values(), words), "documents written")
    written: dict[str, dict[str, str]] = {kind: {} for kind in DOCUMENTS}
    for (query_id, kind), answer in zip(product(queries, DOCUMENTS), answers, strict=True):
        parse = TEXTS[prompts[kind].about.parser]
        text = None if answer["error"] else parse(answer["text"], answer["finish_reason"])
        if text is not None:
            written[kind][query_id] = text
        outcome = "error" if answer["error"] else "unparseable" if text is None else "ok"
        ctx.out.outcomes[f"{kind}_{outcome}"] += 1
    return written


def max_tokens(words: int) -> int:
    """Room for the words asked for, and some more for a model that does not count well."""
    return round(words * _TOKENS_PER_WORD * 1.25)


def external(recipe: Recipe) -> Any:
    """Fingerprint of the file with recorded answers, or of the model and the prompts; None where nothing is asked.

    Raises RayrieverError when the file is not there, or when the recipe asks for verdicts that no file can hold.
    """
    section = recipe.synthesis
    if section.max_queries == 0:
        return None
    if section.path is not None:
        if section.check_negatives:
            raise RayrieverError(
                "synthesis: check_negatives asks the LLM, but synthesis.path takes recorded answers and asks nothing. "
                "Set one of the two."
            )
        return {"recorded": recorded_fingerprint(section.path)}
    verdict = ("verdict", "verdict_again") if section.verify or section.check_negatives else ()
    return answer_fingerprint(recipe.llm, (*_tasks(section.decomposition).values(), *verdict))


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    """Recorded answers cost nothing and are at most one per query; the LLM writes three per query and judges some."""
    section = recipe.synthesis
    queries = upstream["queries"].subjects
    rows = queries if section.max_queries is None else min(queries, section.max_queries)
    seen = upstream["corpus"].examples
    words = section.words or (_median_words(pa.chunked_array([seen], pa.string())) if seen else _WORDS[1])
    disk_bytes = rows * words * len(DOCUMENTS) * 6
    if section.path is not None:
        return Estimate(rows, disk_bytes, note="recorded answers, at most one per query")
    expected = list(_expected(recipe, rows, upstream["queries"].examples, words)) if rows else []
    asked = forecast(recipe, expected)
    note = f"{asked.basis}; documents of {words} words" if rows else ""
    return Estimate(rows, disk_bytes, asked.requests, asked.tokens_in, asked.tokens_out, note=note)


def _expected(recipe: Recipe, rows: int, queries: Sequence[str], words: int) -> Iterator[Expected]:
    document, section = words * _TOKENS_PER_WORD, recipe.synthesis
    queries = queries or [prose(_QUERY_WORDS)]
    examples = defaultdict[str, list[Messages]](list)
    for request in document_requests(recipe, queries, words):
        examples[request.purpose].append(request.messages)
    for kind in DOCUMENTS:
        yield Expected(kind, rows, examples[kind], document)
    verdict = load("verdict", recipe.llm)
    judged = [verdict.messages(query=query, passage=prose(words)) for query in queries]
    yield Expected("verdict", rows * (section.verify + section.check_negatives), judged, _VERDICT_TOKENS)
