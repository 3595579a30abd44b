"""Queries, judgments, passages and an encoder that mean nothing, in any number: what benchmarks of size work on."""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.records import DUPLICATE, JUDGMENT, PASSAGE, QUERY
from pipeline.workspace import Workspace

ROWS_PER_PART = 10_000
ABOUT = {"inputs": {}, "section": {}, "code_version": "", "finished_at": "", "seconds": 0.0, "peak_memory_mb": 0.0}


def write_corpus(workspace: Workspace, rows: int) -> Artifact:
    out = ArtifactWriter(workspace, "corpus", "0")
    chance = random.Random(0)
    nothing = {"title": "", "source": "synthetic", "start": None, "end": None}
    passages = (
        {"passage_id": f"p{number}", "text": written(chance, chance.randint(30, 120)), **nothing}
        for number in range(rows // 10)
    )
    out.table("passages", in_parts(passages, PASSAGE), PASSAGE)
    out.table("duplicates", DUPLICATE.empty_table(), DUPLICATE)
    return out.commit(**ABOUT)


def write_queries(workspace: Workspace, rows: int) -> Artifact:
    out = ArtifactWriter(workspace, "queries", "0")
    chance = random.Random(1)
    queries = (
        {"query_id": query_id(number), "text": written(chance, 12), "split": "train", "kind": "given"}
        for number in range(rows)
    )
    judgments = (
        {"query_id": query_id(number), "passage_id": f"p{chance.randrange(rows // 10)}", "grade": 1}
        for number in range(rows)
    )
    out.table("queries", in_parts(queries, QUERY), QUERY)
    out.table("judgments", in_parts(judgments, JUDGMENT), JUDGMENT)
    return out.commit(**ABOUT)


def query_id(number: int) -> str:
    """Ids whose order is not the order of writing."""
    return f"{number * 2_654_435_761 % 2**32:08x}"


def in_parts(rows: Iterator[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.Table]:
    while part := list(itertools.islice(rows, ROWS_PER_PART)):
        yield pa.Table.from_pylist(part, schema=schema)


def written(chance: random.Random, words: int) -> str:
    return " ".join("".join(chance.choices(string.ascii_lowercase, k=6)) for _ in range(words))
