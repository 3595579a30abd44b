"""The permutations stage: who is above whom in the lists of the candidates, says an LLM, a file, or the fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import records
from pipeline.corpus.duplicates import representatives
from pipeline.corpus.texts import passage_texts
from pipeline.errors import RayrieverError
from pipeline.llm.forecast import forecast, prose
from pipeline.llm.prompts import answer_fingerprint
from pipeline.recipe import PermutationsSection, Recipe
from pipeline.reranking.aggregation import aggregate, whole
from pipeline.reranking.candidates import SOURCES
from pipeline.reranking.lists import RankedList, Taught, UnrankedList
from pipeline.reranking.prompting import Questions, expected, tasks_of
from pipeline.reranking.queries import CROP, labels_of, read_queries, train_queries
from pipeline.reranking.recorded import recorded_fingerprint, recorded_lists
from pipeline.reranking.teacher import ranked_by_llm
from pipeline.stage import Estimate, StageContext

_QUERY_WORDS = 12  # of a query that is not there yet
_PASSAGE_WORDS = 100
_BYTES_PER_LIST = 4000


def run(ctx: StageContext) -> None:
    """Write tables `lists` and `permutations`: recorded rankings first, then those of the candidates that have none."""
    section = section_of(ctx.recipe)
    parts = []
    if section.path is not None:
        parts.append(recorded_lists(ctx, section.path, train_queries(ctx)))
    if "candidates" in ctx.inputs:
        known = {each.query.query_id for part in parts for each in part.lists}
        lists = [each for each in _unranked(ctx) if each.query.query_id not in known]
        usable = [each for each in lists if len(each.passage_ids) > 1]
        ctx.out.outcomes["lists_too_short"] = len(lists) - len(usable)
        parts.append(_ranked(ctx, section, usable))
    taught = Taught([each for part in parts for each in part.lists], [each for part in parts for each in part.said])
    for each in taught.lists:
        ctx.out.outcomes[f"lists_{each.teacher}"] += 1
    if not taught.lists:
        counted = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(ctx.out.outcomes.items()))
        raise RayrieverError(
            f"permutations: no list is ranked ({counted}). Look at these counts, and where an LLM ranks at its answers "
            "(rayriever answers)."
        )
    ctx.out.table("permutations", taught.permutations(), records.PERMUTATION)
    ctx.out.table("lists", taught.ranked_lists(), records.RANKED_LIST)


def section_of(recipe: Recipe) -> PermutationsSection:
    assert recipe.permutations is not None, "there is no permutations stage without the section"
    return recipe.permutations


def _unranked(ctx: StageContext) -> list[UnrankedList]:
    """The candidates of every query in the order of their ranks."""
    candidates = ctx.inputs["candidates"]
    queries = read_queries(candidates.table("queries"))
    rows = candidates.table("candidates", columns=["query_id", "passage_id", "rank"])
    rows = rows.sort_by([("query_id", "ascending"), ("rank", "ascending")])
    ids: dict[str, list[str]] = {query_id: [] for query_id in queries}
    for query_id, passage_id in zip(rows["query_id"].to_pylist(), rows["passage_id"].to_pylist(), strict=True):
        ids[query_id].append(passage_id)
    return [UnrankedList(queries[query_id], tuple(of_query)) for query_id, of_query in ids.items()]


def _ranked(ctx: StageContext, section: PermutationsSection, lists: Sequence[UnrankedList]) -> Taught:
    if not lists:
        return Taught([], [])
    if section.method == "fusion":
        return Taught(_fused(ctx, section, lists), [])
    wanted = {passage_id for each in lists for passage_id in each.passage_ids}
    return ranked_by_llm(ctx, lists, passage_texts(ctx.inputs["corpus"], wanted))


def _fused(ctx: StageContext, section: PermutationsSection, lists: Sequence[UnrankedList]) -> list[RankedList]:
    """Labelled passages first, and then the order in which the sources' hits were merged."""
    same = representatives(ctx.inputs["corpus"].table("duplicates"))
    cut_from = ctx.inputs["candidates"].table(SOURCES)
    labels = {row["query_id"]: {row["passage_id"]} for row in cut_from.to_pylist()}
    # A sentence of a passage is about it, whether it was cut here or is a train query.
    read = {each.query.query_id: each.query for each in lists if section.labels or each.query.kind == CROP}
    labels |= labels_of(ctx, read)
    ranked = []
    for each in lists:
        # Candidates go by the first of their near-duplicates, labels by any.
        relevant = {same.get(passage_id, passage_id) for passage_id in labels.get(each.query.query_id, ())}
        order = sorted(each.passage_ids, key=lambda passage_id: passage_id not in relevant)
        ctx.out.outcomes["lists_with_labelled_passage"] += bool(relevant & set(order))
        ranked.append(aggregate(each.query, "fusion", order, [whole(order)]))
    return ranked


def external(recipe: Recipe) -> Any:
    """Fingerprints of the recorded files, and of the model and its prompts where an LLM ranks."""
    section = section_of(recipe)
    asks = recipe.candidates is not None and section.method != "fusion"
    if asks:
        Questions.of(recipe)  # refuses what the engine cannot do, before anything runs
    return {
        "recorded": None if section.path is None else recorded_fingerprint(section.path),
        "llm": answer_fingerprint(recipe.llm, tasks_of(section)) if asks else None,
    }


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    section = section_of(recipe)
    if "candidates" not in upstream:
        return Estimate(upstream["queries"].rows, upstream["queries"].rows * _BYTES_PER_LIST, note="recorded")
    assert recipe.candidates is not None, "its stage is there"
    size = recipe.candidates.list_size
    lists = upstream["candidates"].rows // size
    if section.method == "fusion":
        return Estimate(lists, lists * _BYTES_PER_LIST, note="no LLM: the fused order")
    queries = upstream["queries"].examples or (prose(_QUERY_WORDS),)
    texts = upstream["corpus"].examples or (prose(_PASSAGE_WORDS),)
    asked = forecast(recipe, [expected(recipe, lists, size, queries, texts)])
    disk = lists * _BYTES_PER_LIST
    return Estimate(lists, disk, asked.requests, asked.tokens_in, asked.tokens_out, note=asked.basis)
