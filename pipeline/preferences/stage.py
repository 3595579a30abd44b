"""The preferences stage: which of the tuned encoder's hits is better (Kim & Baek 2025, section 2.3)."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import records
from pipeline.bad_rows import check_bad_share
from pipeline.corpus.duplicates import known_ids, representatives
from pipeline.errors import RayrieverError
from pipeline.llm.forecast import Expected, forecast, prose
from pipeline.llm.prompts import answer_fingerprint, load
from pipeline.preferences.aggregation import consistency, order_of, win_matrix
from pipeline.preferences.candidates import labelled, shown_passages, top_hits
from pipeline.preferences.comparisons import TASK, Comparison, compare, preferences_of, questions
from pipeline.preferences.recorded import Corpus, RecordedRanking, read_rankings
from pipeline.rankings import Hit, to_table
from pipeline.recipe import PreferencesSection, Recipe
from pipeline.recorded import file_fingerprint
from pipeline.stage import Estimate, StageContext

TUNED, RECORDED = "tuned", "recorded"  # whose hits are compared
_ANSWER_TOKENS = 2  # of a letter
_QUERY_WORDS = 12  # of a query that is not there yet
_BYTES_PER_PAIR = 60

Preferences = Mapping[str, Sequence[tuple[str, str]]]  # query id -> (better, worse)


def run(ctx: StageContext) -> None:
    """Write tables `candidates`, `comparisons`, `preferences` and `orders`."""
    section = _section(ctx.recipe)
    if section.path is not None:
        _run_recorded(ctx, section, section.path)
    else:
        _run_compared(ctx, section)


def _section(recipe: Recipe) -> PreferencesSection:
    assert recipe.preferences is not None, "there is no preferences stage without the section"
    return recipe.preferences


def _run_compared(ctx: StageContext, section: PreferencesSection) -> None:
    queries = _train_queries(ctx, crops=False)
    queries = {query_id: queries[query_id] for query_id in _choose(queries, section.max_queries, ctx.recipe.seed)}
    hits = top_hits(ctx, queries, section.top_k)
    candidates = {query_id: [hit.passage_id for hit in found] for query_id, found in hits.items()}
    decided = labelled(ctx, candidates) if section.labels_decide else {}
    asked = questions(candidates, decided, section, ctx.recipe.seed)
    comparisons = compare(ctx, asked, queries, shown_passages(ctx, candidates, section.max_words))
    preferences, outcomes = preferences_of(comparisons)
    ctx.out.outcomes.update(outcomes)
    orders = list(_fitted_orders(ctx, candidates, preferences))
    _write(ctx, to_table(TUNED, hits), comparisons, preferences, orders)


def _train_queries(ctx: StageContext, crops: bool) -> dict[str, str]:
    """Texts by id, with or without cropped sentences: to those no hit is an answer that could be compared."""
    table = ctx.inputs["queries"].table("queries")
    table = table.filter(pc.equal(table["split"], "train")).sort_by("query_id")
    if not crops:
        table = table.filter(pc.not_equal(table["kind"], "crop"))
    return dict(zip(table["query_id"].to_pylist(), table["text"].to_pylist(), strict=True))


def _choose(query_ids: Iterable[str], limit: int | None, seed: int) -> list[str]:
    """All of them, or a seeded sample of `limit`, in their order."""
    ids = list(query_ids)
    if limit is None or limit >= len(ids):
        return ids
    return [ids[number] for number in sorted(random.Random(seed).sample(range(len(ids)), limit))]


def _fitted_orders(
    ctx: StageContext, candidates: Mapping[str, Sequence[str]], preferences: Preferences
) -> Iterable[dict[str, Any]]:
    """Rows of `records.ORDER` for queries with a preference. Of a passage that none speaks of, nothing is known."""
    for query_id, ids in candidates.items():
        decided = preferences.get(query_id, [])
        spoken_of = {passage_id for pair in decided for passage_id in pair}
        compared = [passage_id for passage_id in ids if passage_id in spoken_of]
        if not compared:
            ctx.out.outcomes["queries_without_preference"] += 1
            continue
        circles = consistency(win_matrix(compared, decided))
        ctx.out.outcomes["triples_judged"] += circles.triples
        ctx.out.outcomes["triples_cyclic"] += circles.cycles
        order, strengths = order_of(compared, decided)
        yield {"query_id": query_id, "passage_ids": order, "grades": strengths}


def _run_recorded(ctx: StageContext, section: PreferencesSection, path: str) -> None:
    rankings, outcomes = read_rankings(path, _held_against(ctx), ctx.out.quarantine)
    ctx.out.outcomes.update(outcomes)
    rows, unusable = outcomes["rankings_rows"], outcomes["rankings_unusable"]
    remedy = "take rankings of this corpus"
    check_bad_share(ctx, f"preferences.path {path}", unusable, rows, remedy)
    if not rankings:
        raise RayrieverError(
            f"preferences.path {path}: none of its {rows:,} rankings is of a train query. Do they belong to these "
            "queries?"
        )
    by_query = {ranking.query_id: ranking for ranking in rankings}
    chosen = [by_query[query_id] for query_id in _choose(by_query, section.max_queries, ctx.recipe.seed)]
    comparisons = [each for ranking in chosen for each in _decided(ranking, section.min_grade_gap)]
    preferences: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for each in comparisons:
        if each.preferred is not None:
            preferences[each.query_id].append(each.preferred)
    ctx.out.outcomes["pairs"] = len(comparisons)
    ctx.out.outcomes["no_preference"] = sum(each.preferred is None for each in comparisons)
    hits = {r.query_id: [Hit(*each) for each in zip(r.passage_ids, r.grades, strict=True)] for r in chosen}
    orders = [{"query_id": r.query_id, "passage_ids": list(r.passage_ids), "grades": list(r.grades)} for r in chosen]
    _write(ctx, to_table(RECORDED, hits), comparisons, preferences, orders)


def _held_against(ctx: StageContext) -> Corpus:
    same = representatives(ctx.inputs["corpus"].table("duplicates"))
    present = ctx.inputs["corpus"].table("passages", columns=["passage_id"])["passage_id"]
    return Corpus(_train_queries(ctx, crops=True), known_ids(present.to_pylist(), same), same)


def _decided(ranking: RecordedRanking, min_grade_gap: float) -> Iterable[Comparison]:
    for better, worse, decided in ranking.pairs(min_grade_gap):
        yield Comparison(ranking.query_id, better, worse, None, None, "first" if decided else "none")


def _write(
    ctx: StageContext,
    candidates: pa.Table,
    comparisons: Sequence[Comparison],
    preferences: Preferences,
    orders: Sequence[Mapping[str, Any]],
) -> None:
    pairs = [
        {"query_id": query_id, "better_id": better, "worse_id": worse}
        for query_id, decided in preferences.items()
        for better, worse in decided
    ]
    ctx.out.table("candidates", candidates, records.HIT)
    rows = [vars(each) for each in comparisons]
    ctx.out.table("comparisons", pa.Table.from_pylist(rows, schema=records.COMPARISON), records.COMPARISON)
    ctx.out.table("preferences", pa.Table.from_pylist(pairs, schema=records.PREFERENCE), records.PREFERENCE)
    ctx.out.table("orders", pa.Table.from_pylist(orders, schema=records.ORDER), records.ORDER)


def external(recipe: Recipe) -> Any:
    """Fingerprint of the recorded file, or of the model and the prompt.

    Raises RayrieverError when one of them is not there, and for a rule on grades where the LLM only chooses.
    """
    section = _section(recipe)
    if section.path is not None:
        return file_fingerprint(section.path)
    if section.min_grade_gap:
        raise RayrieverError("preferences.min_grade_gap: only recorded rankings have grades. Give preferences.path.")
    return answer_fingerprint(recipe.llm, [TASK])


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    section = _section(recipe)
    queries = min(upstream["queries"].subjects, section.max_queries or upstream["queries"].subjects)
    if section.path is not None:
        return Estimate(rows=queries, disk_bytes=queries * 10 * 9 // 2 * _BYTES_PER_PAIR, note="lists of ten passages")
    every = section.top_k * (section.top_k - 1) // 2
    pairs = queries * {"all": every, "k": min(section.top_k, every), "adjacent": section.top_k - 1}[section.pairs]
    count = pairs * (2 if section.order == "both" else 1)
    asked = forecast(recipe, [Expected(TASK, count, _examples(recipe, section, upstream), _ANSWER_TOKENS)])
    return Estimate(pairs, count * _BYTES_PER_PAIR, asked.requests, asked.tokens_in, asked.tokens_out, note=asked.basis)


def _examples(
    recipe: Recipe, section: PreferencesSection, upstream: Mapping[str, Estimate]
) -> list[list[dict[str, str]]]:
    """Prompts about passages of the corpus, as long as they are shown; about any two, as the hits are not known yet."""
    queries = upstream["queries"].examples or (prose(_QUERY_WORDS),)
    texts = upstream["corpus"].examples or (prose(section.max_words),)
    shown = [" ".join(text.split()[: section.max_words]) for text in texts]
    prompt = load(TASK, recipe.llm)
    pairs = zip(shown, shown[1:] + shown[:1], cycle(queries), strict=False)
    return [prompt.messages(query=query, first=first, second=second) for first, second, query in pairs]
