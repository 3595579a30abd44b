"""Make queries from passages: sentences as they stand, and questions, keywords and claims that the LLM writes."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.digest import digest
from pipeline.lexical.search import WordSearch
from pipeline.llm.ask import ask
from pipeline.llm.parsers import TEXTS
from pipeline.llm.prompts import load
from pipeline.llm.requests import Request
from pipeline.queries.given import Query
from pipeline.recipe import QueryKind, Recipe
from pipeline.records import full_text
from pipeline.stage import StageContext

# A passage says too little to be asked about below this, and a prompt holds no more than this.
_FEWEST_WORDS, _MOST_WORDS = 5, 120
WRITTEN: tuple[QueryKind, ...] = ("question", "keywords", "claim")  # by the LLM
_CROP_WORDS = (5, 64)  # Baldelli et al. 2024, section 3.1 crops sentences; the bounds keep search-like lengths
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")


@dataclass(frozen=True)
class Assignment:
    """One query to make: of which kind, from which passage."""

    kind: QueryKind
    passage_id: str
    title: str
    text: str


def assign(passages: pa.Table, count: int, kinds: Sequence[QueryKind], seed: int) -> list[Assignment]:
    """`count` assignments in equal parts of the kinds; passages are drawn without repetition while there are enough.

    Fewer where the corpus has not enough passages for each pair of kind and passage to be used once.
    """
    rows = [
        (row["passage_id"], row["title"], row["text"])
        for row in passages.sort_by("passage_id").to_pylist()
        if len(row["text"].split()) >= _FEWEST_WORDS
    ]
    random.Random(seed).shuffle(rows)
    made = []
    for number in range(min(count, len(rows) * len(kinds))):
        lap, place = divmod(number, len(rows))
        made.append(Assignment(kinds[(place + lap) % len(kinds)], *rows[place]))
    return made


def unevaluated(passages: pa.Table, evaluated: Iterable[str], same: Mapping[str, str]) -> pa.Table:
    """Without the passages that dev or test queries are about, and near-duplicates of such.

    Args:
        same: passage id -> first of its near-duplicates; others stand for themselves.
    """
    groups = {same.get(passage_id, passage_id) for passage_id in evaluated}
    free = [same.get(i, i) not in groups for i in passages["passage_id"].to_pylist()]
    return passages.filter(pa.array(free, pa.bool_()))


def crop(text: str, seed: str) -> str | None:
    """A sentence of the text that has a query's length, or None where there is none."""
    low, high = _CROP_WORDS
    sentences = [" ".join(sentence.split()) for sentence in _SENTENCE_END.split(text)]
    fitting = [sentence for sentence in sentences if low <= len(sentence.split()) <= high]
    return random.Random(seed).choice(fitting) if fitting else None


def generate(ctx: StageContext, assignments: Sequence[Assignment], lexical: WordSearch) -> list[Query]:
    """Queries with their passage as label; outcomes are counted per kind in `ctx.out.outcomes`."""
    crops = [(a, crop(a.text, f"{ctx.recipe.seed}-{a.passage_id}")) for a in assignments if a.kind == "crop"]
    asked = [a for a in assignments if a.kind != "crop"]
    written = _ask(ctx, asked)
    kept = [*((a, text) for a, text in crops if text), *_round_trip(ctx, written, lexical)]
    ctx.out.outcomes["crop_without_sentence"] += sum(text is None for _, text in crops)
    queries: dict[str, Query] = {}
    for assignment, text in kept:
        # One wording is one query, whatever number of passages it was made from.
        query_id = f"{assignment.kind}-{digest({'text': text.casefold()})}"
        query = queries.setdefault(query_id, Query(query_id, text, "train", assignment.kind))
        query.grades[assignment.passage_id] = 1
        ctx.out.outcomes[f"{assignment.kind}_ok"] += 1
    return list(queries.values())


def query_requests(recipe: Recipe, assignments: Iterable[Assignment]) -> Iterator[Request]:
    """One request per assignment, in order; none of them a crop."""
    prompts = {kind: load(kind, recipe.llm) for kind in WRITTEN}
    for each in assignments:
        prompt = prompts[each.kind]
        yield Request(each.kind, prompt.messages(passage=_shown(each)), prompt.sampling(recipe.queries.temperature))


def _shown(assignment: Assignment) -> str:
    return " ".join(full_text(assignment.title, assignment.text).split()[:_MOST_WORDS])


def _ask(ctx: StageContext, assignments: Sequence[Assignment]) -> list[tuple[Assignment, str]]:
    if not assignments:
        return []
    recipe = ctx.recipe
    responses = ask(ctx, query_requests(recipe, assignments), "queries written")
    parsers = {kind: TEXTS[load(kind, recipe.llm).about.parser] for kind in WRITTEN}
    parsed = []
    for assignment, response in zip(assignments, responses, strict=True):
        if response["error"] is not None:
            ctx.out.outcomes[f"{assignment.kind}_error"] += 1
        elif (text := parsers[assignment.kind](response["text"], response["finish_reason"])) is None:
            ctx.out.outcomes[f"{assignment.kind}_unparseable"] += 1
        else:
            parsed.append((assignment, text))
    return parsed


def _round_trip(
    ctx: StageContext, written: Sequence[tuple[Assignment, str]], lexical: WordSearch
) -> list[tuple[Assignment, str]]:
    """Those whose own passage BM25 finds: what the passage does not answer is noise for training."""
    hits = lexical([text for _, text in written], ctx.recipe.queries.max_source_rank)
    kept, lost = [], Counter[str]()
    for (assignment, text), found in zip(written, hits, strict=True):
        if any(hit.passage_id == assignment.passage_id for hit in found):
            kept.append((assignment, text))
        else:
            lost[f"{assignment.kind}_not_about_passage"] += 1
    ctx.out.outcomes.update(lost)
    return kept
