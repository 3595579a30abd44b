"""The queries stage: given or made, labelled, split, free of leaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileInfo

from pipeline import records
from pipeline.artifact import Artifact
from pipeline.corpus.beir import cached_folder
from pipeline.corpus.duplicates import character_shingles, find_duplicates, known_ids, representatives
from pipeline.errors import RayrieverError
from pipeline.lexical.search import open_words
from pipeline.lexical.words import check_stemmer
from pipeline.llm.forecast import Expected, forecast, prose
from pipeline.llm.prompts import answer_fingerprint
from pipeline.queries.generate import WRITTEN, Assignment, assign, generate, query_requests, unevaluated
from pipeline.queries.given import NO_PASSAGE, Query, query_files, read_given
from pipeline.queries.splits import drop_leaks, hold_out, linked_groups
from pipeline.recipe import Recipe
from pipeline.recorded import is_unicode, json_object
from pipeline.stage import Estimate, StageContext
from pipeline.workspace import Workspace

_DEFAULT_GENERATED = 1000
_FEW_BROKEN = 3  # rows that are always tolerated: of a hundred queries, 1 % would be one
_COUNTED_BYTES = 1 << 24
_ANSWER_TOKENS = 20  # of a query that the LLM writes
_PASSAGE_WORDS, _QUERY_WORDS = 100, 12  # where none can be seen yet
_EXAMPLES = 32


def run(ctx: StageContext) -> None:
    """Write tables `queries` and `judgments`."""
    section = ctx.recipe.queries
    same_passage = representatives(ctx.inputs["corpus"].table("duplicates"))
    present = ctx.inputs["corpus"].table("passages", columns=["passage_id"])["passage_id"]
    known = known_ids(present.to_pylist(), same_passage)
    folder = given_folder(ctx.recipe)
    given = read_given(folder, known, ctx.out.quarantine) if folder else []
    ctx.out.outcomes["given"] = len(given)
    _check_bad_share(ctx, len(given))
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
    """Where the recipe's own queries are; None where they are to be made. Downloads nothing.

    Raises RayrieverError when the folder that `queries.path` names has no queries.
    """
    path = recipe.queries.path
    if path is not None:
        if not query_files(path):
            raise RayrieverError(f"queries.path {path}: has no queries.jsonl.")
        return path
    path = _corpus_folder(recipe.corpus.path)
    return path if path and query_files(path) else None


def _corpus_folder(path: str) -> str | None:
    if path.startswith("beir:"):
        return str(cached_folder(path.removeprefix("beir:")))
    return None if path.startswith("pydoc:") or "*" in path else path


def _check_bad_share(ctx: StageContext, given: int) -> None:
    """A few unusable rows are set aside; many mean that the files are not what they should be."""
    broken = [row for row in ctx.out.quarantined if not row["reason"].startswith(NO_PASSAGE)]
    if len(broken) > ctx.recipe.corpus.max_bad_share * (given + len(broken)) and len(broken) > _FEW_BROKEN:
        ctx.out.write_quarantine()
        first = "\n".join(f"  {row['source']}:{row['line']}  {row['reason']}" for row in broken[:10])
        raise RayrieverError(
            f"queries: {len(broken):,} rows of queries and judgments cannot be used, more than max_bad_share.\n"
            f"{first}\n"
            f"All in {ctx.out.part_folder('quarantine')}. Mend the rows, or raise corpus.max_bad_share."
        )


def _to_generate(wanted: int | None, have_train: bool) -> int:
    if wanted is not None:
        return wanted
    return 0 if have_train else _DEFAULT_GENERATED


def _generated(ctx: StageContext, count: int, evaluated: set[str], same_passage: Mapping[str, str]) -> list[Query]:
    """Made from passages that no given dev or test query is about."""
    passages = ctx.inputs["corpus"].table("passages")
    assignments = assign(
        unevaluated(passages, evaluated, same_passage), count, ctx.recipe.queries.kinds, ctx.recipe.seed
    )
    with open_words(ctx.recipe, ctx.inputs["words"]) as lexical:
        return generate(ctx, assignments, lexical)


def _same_queries(queries: Sequence[Query], threshold: float) -> dict[str, str]:
    ids, texts = [query.query_id for query in queries], [query.text for query in queries]
    return representatives(find_duplicates(ids, texts, threshold, character_shingles))


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
    """Fingerprint of the given query files and, where queries are written, of the model and the prompts.

    Refuses here, before anything has run, what would fail only after the LLM was paid.
    """
    check_stemmer(recipe.lexical.stemmer)
    if recipe.queries.path is None and recipe.corpus.path.startswith("beir:"):
        # Known by its name: its files appear between planning and running, and must not change the key.
        asked = sorted(set(recipe.queries.kinds) & set(WRITTEN)) if recipe.queries.generate != 0 else []
        return {"files": recipe.corpus.path, "llm": answer_fingerprint(recipe.llm, asked) if asked else None}
    folder = given_folder(recipe)
    files = query_files(folder) if folder else []
    names = [["/".join(info.path.rsplit("/", 2)[1:]), info.size, info.mtime_ns] for info in files]
    written = sorted(set(recipe.queries.kinds) & set(WRITTEN)) if _count(recipe, files) else []
    return {"files": names, "llm": answer_fingerprint(recipe.llm, written) if written else None}


def _count(recipe: Recipe, files: Sequence[FileInfo]) -> int:
    splits = {info.base_name.split(".")[0] for info in files}
    return _to_generate(recipe.queries.generate, bool(files) and ("train" in splits or len(files) == 1))


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    """Given queries are counted by their bytes; generated ones by the recipe."""
    folder = given_folder(recipe)
    files = query_files(folder) if folder else []
    kinds = recipe.queries.kinds
    count = min(_count(recipe, files), upstream["corpus"].rows * len(kinds))
    heads = [(_head(folder, info), info.size or 0) for info in files if info.base_name.startswith("queries")]
    given = sum(_expected_queries(head, size) for head, size in heads)
    passages = upstream["corpus"].examples or (prose(_PASSAGE_WORDS),)
    expected = [
        Expected(
            kind,
            len(range(place, count, len(kinds))),
            [r.messages for r in query_requests(recipe, [Assignment(kind, "", "", text) for text in passages])],
            _ANSWER_TOKENS,
        )
        for place, kind in enumerate(kinds)
        if kind != "crop" and count
    ]
    asked = forecast(recipe, expected)
    train_share = 1.0 if files else 1 - recipe.queries.dev_share - recipe.queries.test_share
    examples = [text for head, _ in heads for text in _texts(head)][:_EXAMPLES] or [prose(_QUERY_WORDS)]
    return Estimate(
        given + count,
        (given + count) * 150,
        asked.requests,
        asked.tokens_in,
        asked.tokens_out,
        note=asked.basis,
        examples=tuple(examples),
        asked_about=given + round(train_share * asked.requests),
    )


def observe(queries: Artifact) -> Estimate:
    """What the queries are. The LLM is asked about those of train that are no crops."""
    table = queries.table("queries", columns=["text", "split", "kind"])
    asked = table.filter(pc.and_(pc.equal(table["split"], "train"), pc.not_equal(table["kind"], "crop")))
    examples = asked["text"].slice(0, _EXAMPLES).to_pylist()
    return Estimate(table.num_rows, table.nbytes, examples=tuple(examples), asked_about=asked.num_rows)


def _head(folder: str | None, info: FileInfo) -> bytes:
    assert folder is not None
    with Workspace(folder).filesystem.open_input_file(info.path) as stream:
        head: bytes = stream.read(_COUNTED_BYTES)
    return head


def _expected_queries(head: bytes, size: int) -> int:
    """Lines of a small file; of a large one, estimated from its beginning."""
    lines = max(1, head.count(b"\n"))
    return round(lines * max(1.0, size / max(1, len(head))))


def _texts(head: bytes) -> Iterator[str]:
    """Of the first lines that can be read; those that cannot are the stage's affair."""
    for line in head.splitlines()[:_EXAMPLES]:
        text = (json_object(line) or {}).get("text")
        if isinstance(text, str) and is_unicode(text):
            yield text
