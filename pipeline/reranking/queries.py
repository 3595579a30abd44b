"""Which queries a reranker learns from: train queries of every kind, and sentences of passages as they stand."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.corpus.duplicates import representatives
from pipeline.digest import digest
from pipeline.queries.generate import assign, crop, unevaluated
from pipeline.queries.read import EVALUATED, relevant_passages, split_queries
from pipeline.recipe import CandidatesSection, QueryKind
from pipeline.reranking.lists import Query
from pipeline.stage import StageContext

CROP: QueryKind = "crop"
# Passages tried for each sentence that is wanted: some have none of a query's length.
_TRIES = 3


@dataclass(frozen=True)
class Chosen:
    """Queries by id, and the passage that each sentence was cut from."""

    queries: dict[str, Query]
    sources: dict[str, str]  # query id -> passage id, of new sentences


def choose(ctx: StageContext, section: CandidatesSection) -> Chosen:
    """Up to `max_queries`: the recipe's share of sentences, the rest train queries of other kinds; kinds are counted.

    Half and half is what the paper has (Baldelli et al. 2024, section 3.1). Sentences among the train queries come
    first; more are cut from passages that no dev or test query is about.
    """
    train = train_queries(ctx)
    wanted = round(section.max_queries * section.crop_share)
    seed = ctx.recipe.seed
    crops = _sample([each for each in train.values() if each.kind == CROP], wanted, seed)
    others = _sample([each for each in train.values() if each.kind != CROP], section.max_queries - wanted, seed)
    known = {each.text.casefold() for each in train.values()} | _evaluated_wordings(ctx)
    cut = dict(_sentences(ctx, wanted - len(crops), known)) if wanted > len(crops) else {}
    chosen = [*others, *crops, *cut]
    for each in chosen:
        ctx.out.outcomes[f"queries_{each.kind}"] += 1
    return Chosen({each.query_id: each for each in chosen}, {each.query_id: cut[each] for each in cut})


def train_queries(ctx: StageContext) -> dict[str, Query]:
    """All train queries of the run by id, in order of ids."""
    rows = split_queries(ctx, "train", ("query_id", "text", "kind")).to_pylist()
    return {row["query_id"]: Query(row["query_id"], row["text"], row["kind"]) for row in rows}


def _sample(queries: Sequence[Query], count: int, seed: int) -> list[Query]:
    """A seeded choice, in the order given."""
    if count >= len(queries):
        return list(queries)
    return [queries[place] for place in sorted(random.Random(seed).sample(range(len(queries)), count))]


def _evaluated_wordings(ctx: StageContext) -> set[str]:
    return {text.casefold() for split in EVALUATED for text in split_queries(ctx, split)["text"].to_pylist()}


def _sentences(ctx: StageContext, count: int, known: Collection[str]) -> Iterator[tuple[Query, str]]:
    """New sentences with the passage that each is from; no wording twice, none that is known already."""
    passages = ctx.inputs["corpus"].table("passages", columns=["passage_id", "title", "text"])
    if ctx.recipe.queries.on_leak == "drop":
        same = representatives(ctx.inputs["corpus"].table("duplicates"))
        passages = unevaluated(passages, [i for split in EVALUATED for i in _relevant(ctx, split)], same)
    seen, made = set(known), 0
    for each in assign(passages, _TRIES * count, (CROP,), ctx.recipe.seed):
        sentence = crop(each.text, f"{ctx.recipe.seed}-{each.passage_id}")
        if sentence is None or sentence.casefold() in seen:
            continue
        seen.add(sentence.casefold())
        yield Query(f"{CROP}-{digest({'text': sentence.casefold()})}", sentence, CROP), each.passage_id
        made += 1
        if made == count:
            return


def _relevant(ctx: StageContext, split: str) -> Iterator[str]:
    ids = split_queries(ctx, split)["query_id"].combine_chunks()
    for grades in relevant_passages(ctx, ids).values():
        yield from grades


def labels_of(ctx: StageContext, queries: Mapping[str, Query]) -> dict[str, set[str]]:
    """Relevant passages of these queries by query id, as judged."""
    ids = pa.array(list(queries), pa.string())
    return {query_id: set(grades) for query_id, grades in relevant_passages(ctx, ids).items()}


def queries_table(queries: Mapping[str, Query], schema: pa.Schema) -> pa.Table:
    """Rows of `records.QUERY`."""
    rows = [{"query_id": q.query_id, "text": q.text, "split": "train", "kind": q.kind} for q in queries.values()]
    return pa.Table.from_pylist(rows, schema=schema)


def read_queries(table: pa.Table) -> dict[str, Query]:
    """What `queries_table` wrote."""
    columns = (table[name].to_pylist() for name in ("query_id", "text", "kind"))
    return {query_id: Query(query_id, text, kind) for query_id, text, kind in zip(*columns, strict=True)}
