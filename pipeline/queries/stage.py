"""The queries stage: given or made, labelled, split, free of leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import records
from pipeline.corpus.duplicates import character_shingles, find_duplicates
from pipeline.errors import RayrieverError
from pipeline.lexical.bm25 import build
from pipeline.queries.generate import MAX_TOKENS, assign, generate
from pipeline.queries.given import Query, query_files, read_given
from pipeline.queries.splits import drop_leaks, hold_out, linked_groups
from pipeline.recipe import Recipe
from pipeline.stage import Estimate, StageContext

_DEFAULT_GENERATED = 1000
_TOKENS_PER_PROMPT = 250  # instruction, examples and a passage of median length; measured on English passages


def run(ctx: StageContext) -> None:
    """Write tables `queries` and `judgments`."""
    section = ctx.recipe.queries
    same_passage, known = _passages(ctx)
    folder = given_folder(ctx.recipe)
    given = read_given(folder, known, ctx.out.quarantine) if folder else []
    ctx.out.outcomes["given"] = len(given)
    evaluated = {p for query in given if query.split != "train" for p in query.relevant}
    count = _to_generate(section.generate, any(query.split == "train" for query in given))
    queries = given + (_generated(ctx, count, evaluated, same_passage) if count else [])
    same_query = _same_queries(queries, section.near_duplicate_threshold)
    shares = {"test": section.test_share, "dev": section.dev_share}
    missing = {s: share for s, share in shares.items() if share and not any(q.split == s for q in queries)}
    queries = hold_out(queries, linked_groups(queries, same_passage, same_query), missing, ctx.recipe.seed)
    if section.on_leak == "drop":
        queries, outcomes = drop_leaks(queries, same_passage, same_query, ctx.out.quarantine)
        ctx.out.outcomes.update(outcomes)
    if not any(query.split == "train" for query in queries):
        counted = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(ctx.out.outcomes.items()))
        raise RayrieverError(f"queries: no train query is left ({counted}). Give some, or raise queries.generate.")
    _write(ctx, queries)


def given_folder(recipe: Recipe) -> str | None:
    """Where the recipe's own queries are; None where they are to be made."""
    if recipe.queries.path is not None:
        return recipe.queries.path
    path = _corpus_folder(recipe.corpus.path)
    return path if path and query_files(path) else None


def _corpus_folder(path: str) -> str | None:
    if path.startswith("beir:"):
        from pipeline.corpus.beir import fetch

        return str(fetch(path.removeprefix("beir:")))
    return None if path.startswith("pydoc:") or "*" in path else path


def _passages(ctx: StageContext) -> tuple[dict[str, str], dict[str, str]]:
    """Passage id -> representative of its duplicates, and id in a judgment -> id in the corpus."""
    corpus = ctx.inputs["corpus"]
    duplicates = corpus.table("duplicates")
    same = dict(zip(duplicates["passage_id"].to_pylist(), duplicates["duplicate_of"].to_pylist(), strict=True))
    present = corpus.table("passages", columns=["passage_id"])["passage_id"].to_pylist()
    known = {passage_id: passage_id for passage_id in present}
    return same, {**{dropped: kept for dropped, kept in same.items() if dropped not in known}, **known}


def _to_generate(wanted: int | None, have_train: bool) -> int:
    if wanted is not None:
        return wanted
    return 0 if have_train else _DEFAULT_GENERATED


def _generated(ctx: StageContext, count: int, evaluated: set[str], same_passage: Mapping[str, str]) -> list[Query]:
    """Made from passages that no given dev or test query is about."""
    passages = ctx.inputs["corpus"].table("passages")
    lexical = build(passages, ctx.recipe.lexical)
    groups = {same_passage.get(passage_id, passage_id) for passage_id in evaluated}
    free = [same_passage.get(i, i) not in groups for i in passages["passage_id"].to_pylist()]
    candidates = passages.filter(pa.array(free, pa.bool_()))
    return generate(ctx, assign(candidates, count, ctx.recipe.queries.kinds, ctx.recipe.seed), lexical)


def _same_queries(queries: Sequence[Query], threshold: float) -> dict[str, str]:
    found = find_duplicates([q.query_id for q in queries], [q.text for q in queries], threshold, character_shingles)
    return dict(zip(found["passage_id"].to_pylist(), found["duplicate_of"].to_pylist(), strict=True))


def _write(ctx: StageContext, queries: Sequence[Query]) -> None:
    ordered = sorted(queries, key=lambda query: query.query_id)
    texts = [{"query_id": q.query_id, "text": q.text, "split": q.split, "kind": q.kind} for q in ordered]
    grades = [
        {"query_id": query.query_id, "passage_id": passage_id, "grade": grade}
        for query in ordered
        for passage_id, grade in sorted(query.grades.items())
    ]
    table = pa.Table.from_pylist(texts, schema=records.QUERY)
    ctx.out.table("queries", table, records.QUERY)
    ctx.out.table("judgments", pa.Table.from_pylist(grades, schema=records.JUDGMENT), records.JUDGMENT)
    for split in ("train", "dev", "test"):
        ctx.out.outcomes[f"{split}_queries"] = pc.sum(pc.equal(table["split"], split)).as_py() or 0


def external(recipe: Recipe) -> Any:
    """Fingerprint of the given query files, and of the model that writes queries."""
    from pipeline.llm.requests import model_identity

    folder = given_folder(recipe)
    files = [[info.path, info.size, info.mtime_ns] for info in query_files(folder)] if folder else []
    writes = set(recipe.queries.kinds) & set(MAX_TOKENS)
    return {"files": files, "llm": model_identity(recipe.llm) if writes and recipe.queries.generate != 0 else None}


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    """Given queries are counted by their bytes; generated ones by the recipe."""
    folder = given_folder(recipe)
    files = query_files(folder) if folder else []
    splits = {info.base_name.split(".")[0] for info in files}
    have_train = bool(files) and ("train" in splits or len(files) == 1)
    count = min(_to_generate(recipe.queries.generate, have_train), upstream["corpus"].rows * len(recipe.queries.kinds))
    asked = count * sum(kind != "crop" for kind in recipe.queries.kinds) // len(recipe.queries.kinds)
    given = sum(info.size or 0 for info in files if info.base_name.startswith("queries")) // 100
    return Estimate(
        rows=given + count,
        disk_bytes=(given + count) * 150,
        llm_requests=asked,
        llm_tokens_in=asked * _TOKENS_PER_PROMPT,
        llm_tokens_out=asked * 20,
        note="given queries counted at 100 bytes each" if given else "",
    )
