"""The candidates stage: what several retrievers find for the reranker's queries (Baldelli et al. 2024, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline import records
from pipeline.corpus.duplicates import representatives
from pipeline.encoder.systems import dense_systems
from pipeline.errors import RayrieverError
from pipeline.lexical.search import open_words
from pipeline.mining.hits import search_all
from pipeline.rankings import Hit, rerank
from pipeline.recipe import CandidatesSection, Recipe, ScorerSection, Source
from pipeline.reranking.lists import Query
from pipeline.reranking.merging import Candidate, distinct, one_source, to_table, union
from pipeline.reranking.queries import choose, queries_table
from pipeline.scorer.named import trained_reranker
from pipeline.stage import Estimate, StageContext

_KEY = "candidates.cross_encoder"
SOURCES = "sources"  # table of queries whose label is the passage that they were cut from
# Queries searched together by words or terms, and merged
_BLOCK = 1024

Hits = Mapping[str, Sequence[Hit]]  # query id -> hits, best first


def run(ctx: StageContext) -> None:
    """Write tables `queries`, `sources` and `candidates`, and `hits` where the encoder is a source."""
    section = section_of(ctx.recipe)
    chosen = choose(ctx, section)
    if not chosen.queries:
        raise RayrieverError("candidates: there is no query to find any for. Raise candidates.max_queries.")
    ctx.out.table("queries", queries_table(chosen.queries, records.QUERY), records.QUERY)
    labels = [{"query_id": q, "passage_id": p, "grade": 1} for q, p in chosen.sources.items()]
    ctx.out.table(SOURCES, pa.Table.from_pylist(labels, schema=records.JUDGMENT), records.JUDGMENT)
    found: dict[Source, Hits] = {}
    for source, asked in _turns(ctx, section, chosen.queries).items():
        found[source] = _FINDERS[source](ctx, section, asked, found) if asked else {}
    ctx.out.table("candidates", _merged(ctx, section, chosen.queries, found), records.CANDIDATE)


def section_of(recipe: Recipe) -> CandidatesSection:
    assert recipe.candidates is not None, "there is no candidates stage without the section"
    return recipe.candidates


def _turns(
    ctx: StageContext, section: CandidatesSection, queries: Mapping[str, Query]
) -> dict[Source, Mapping[str, Query]]:
    """The queries of each source: all of them, or those that fall to it in turn."""
    sources = _sources(ctx, section)
    if section.merge == "union":
        return dict.fromkeys(sources, queries)
    ids = list(queries)
    return {
        source: {query_id: queries[query_id] for query_id in ids[turn :: len(sources)]}
        for turn, source in enumerate(sources)
    }


def _sources(ctx: StageContext, section: CandidatesSection) -> tuple[Source, ...]:
    if "rerank" in ctx.inputs and "cross_encoder" not in section.sources:  # from the second round on
        return (*section.sources, "cross_encoder")
    return section.sources


def _merged(
    ctx: StageContext, section: CandidatesSection, queries: Mapping[str, Query], found: Mapping[Source, Hits]
) -> Iterator[Any]:
    same = representatives(ctx.inputs["corpus"].table("duplicates"))
    ids = list(queries)
    for start in range(0, len(ids), _BLOCK):
        lists: list[tuple[str, list[Candidate]]] = []
        for query_id in ids[start : start + _BLOCK]:
            hits: dict[str, list[Hit]] = {
                source: distinct(each[query_id], same)[: section.list_size]
                for source, each in found.items()
                if query_id in each
            }
            if section.merge == "union":
                merged = union(hits, section.list_size, section.floor, section.rrf_k)
            else:
                merged = [each for one in hits.items() for each in one_source(*one, section.list_size)]
            ctx.out.outcomes["queries_with_one_candidate_or_none"] += len(merged) < 2
            for source in {each.source for candidate in merged for each in candidate.found}:
                ctx.out.outcomes[f"lists_with_{source}"] += 1
            lists.append((query_id, merged))
        yield to_table(lists)


def _bm25(
    ctx: StageContext, section: CandidatesSection, queries: Mapping[str, Query], found: Mapping[Source, Hits]
) -> Hits:
    # As deep as a cross-encoder reads; a list takes the first of them.
    depth = max(section.depth if "cross_encoder" in _sources(ctx, section) else 0, section.list_size)
    with open_words(ctx.recipe, ctx.inputs["words"]) as search:
        return _in_blocks(ctx, queries, lambda texts: search(texts, depth), "queries searched by words")


def _sparse(
    ctx: StageContext, section: CandidatesSection, queries: Mapping[str, Query], found: Mapping[Source, Hits]
) -> Hits:
    from pipeline.sparse.search import open_sparse

    with open_sparse(ctx.recipe, ctx.inputs["sparse"]) as search:
        return _in_blocks(ctx, queries, lambda texts: search(texts, section.list_size), "queries searched by terms")


def _in_blocks(
    ctx: StageContext, queries: Mapping[str, Query], search: Callable[[list[str]], list[list[Hit]]], what: str
) -> Hits:
    found: dict[str, list[Hit]] = {}
    every = list(queries.values())
    for start in range(0, len(every), _BLOCK):
        block = every[start : start + _BLOCK]
        hits = search([each.text for each in block])
        found |= dict(zip((each.query_id for each in block), hits, strict=True))
        ctx.progress.update(what, len(found), len(every))
    return found


def _dense(
    ctx: StageContext, section: CandidatesSection, queries: Mapping[str, Query], found: Mapping[Source, Hits]
) -> Hits:
    """Of the encoder that was trained last."""
    newest = dense_systems(ctx.inputs)[-1]
    texts = {query_id: each.text for query_id, each in queries.items()}
    parts = search_all(ctx, newest.index, newest.training, texts, section.list_size)
    return {query_id: hits for part in parts for query_id, hits in part.items()}


def _cross_encoder(
    ctx: StageContext, section: CandidatesSection, queries: Mapping[str, Query], found: Mapping[Source, Hits]
) -> Hits:
    """BM25's hits in the order of a reranker: that of the round before, or the one that the recipe names."""
    from pipeline.scorer.corpus import score_ids

    lexical = found.get("bm25", {})
    if not queries.keys() <= lexical.keys():
        lexical = _bm25(ctx, section, queries, found)
    # In a later round its own one is the better judge of this corpus.
    trained_by = ctx.inputs["rerank"].manifest.place if "rerank" in ctx.inputs else None
    scorer = _scorer(ctx.recipe.scorer, section)
    hits = {query_id: lexical[query_id][: section.depth] for query_id in queries if lexical[query_id]}
    texts = {query_id: queries[query_id].text for query_id in hits}
    ids = {query_id: [hit.passage_id for hit in of_query] for query_id, of_query in hits.items()}
    scored = score_ids(ctx.inputs["corpus"], texts, ids, scorer, ctx.recipe.ray, ctx.progress, trained_by)
    return {query_id: rerank(hits[query_id], scores)[: section.list_size] for query_id, scores in scored}


def _scorer(section: ScorerSection, candidates: CandidatesSection) -> ScorerSection:
    """The recipe's way to run a scorer, with the model that is asked here."""
    if candidates.cross_encoder is None:
        return section
    return section.model_copy(update={"model": candidates.cross_encoder, "kind": "auto"})


_FINDERS: Mapping[
    Source, Callable[[StageContext, CandidatesSection, Mapping[str, Query], Mapping[Source, Hits]], Hits]
] = {"bm25": _bm25, "sparse": _sparse, "dense": _dense, "cross_encoder": _cross_encoder}


def external(recipe: Recipe) -> Any:
    """Stands for the reranker that is a source, where one is."""
    from pipeline.models import locate

    named = section_of(recipe).cross_encoder
    if named is None and (recipe.rerank is None or recipe.rerank.rounds == 1):
        return None
    model = None if named is None else locate(trained_reranker(named, _KEY)).fingerprint
    return {"model": model, "scorer": recipe.scorer.reading_fields()}


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    section = section_of(recipe)
    crops = round(section.max_queries * section.crop_share)
    queries = min(section.max_queries - crops, upstream["queries"].rows) + min(crops, upstream["corpus"].rows)
    rows = queries * section.list_size
    return Estimate(rows, rows * 80, note=f"{', '.join(section.sources)}; {queries:,} queries at most")
