"""One search from its query texts to ordered hits: first stage, fusion, reranking. Knows nothing of HTTP or Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pipeline.collection.about import About, Mode
from pipeline.encoder.side import QUERY
from pipeline.fusion import reciprocal_rank, weighted_sum
from pipeline.rankings import Hit, rerank
from pipeline.records import full_text
from pipeline.sharded.found import Found
from serving.expansion import Expanded
from serving.generations import Ref
from serving.models import Encoded, Floats, Scored, ToEncode, ToScore
from serving.slots import Row, ToSearch
from serving.tracing import stage_span

# Hits of each side that are fused, at least: how deep they are fused changes the order of the first ones too.
_FUSED = 100
_RRF_K = 60


class Backend(Protocol):
    """Where models and shards are: in Ray Serve deployments, or in this process."""

    async def encode(self, request: ToEncode) -> Encoded: ...

    async def score(self, request: ToScore) -> Scored: ...

    async def search_vectors(self, request: ToSearch) -> Found: ...

    async def search_words(self, ref: Ref, queries: Sequence[str], k: int, only: Sequence[str] | None) -> Found: ...

    async def texts(self, ref: Ref, passage_ids: Sequence[str]) -> Mapping[str, Row]: ...


@dataclass(frozen=True)
class Search:
    """What is asked."""

    queries: Sequence[str]
    top_k: int
    mode: Mode
    rerank_depth: int = 0  # hits that the reranker puts in order, no fewer than top_k; 0: none
    only: tuple[str, ...] | None = None  # ids of passages that may be found
    expanded: Expanded | None = None  # what is encoded beside the queries


@dataclass(frozen=True)
class FoundPassage:
    """A hit with the score of every stage that saw it; `score` is that of the last one."""

    passage_id: str
    score: float
    scores: Mapping[str, float]  # bm25, dense, fused, rerank
    row: Row


@dataclass(frozen=True)
class Answer:
    """Hits of each query in order."""

    hits: Sequence[Sequence[FoundPassage]]
    tokens: int  # of the queries, where they were encoded
    milliseconds: Mapping[str, float]


@dataclass
class _Clock:
    milliseconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            with stage_span(name):
                yield
        finally:
            self.milliseconds[name] = round(1000 * (time.perf_counter() - began), 2)


async def search(backend: Backend, ref: Ref, about: About, asked: Search) -> Answer:
    """Answer with the passages of one generation, whatever is released meanwhile."""
    clock = _Clock()
    with clock.stage("total"):
        depth = max(asked.top_k, asked.rerank_depth)
        stages, tokens = await _first_stage(backend, ref, about, asked, depth, clock)
        ranked = [hits[:depth] for hits in stages[-1][1]]
        wanted = list(dict.fromkeys(hit.passage_id for hits in ranked for hit in hits))
        with clock.stage("texts"):
            rows = await backend.texts(ref, wanted)
        if asked.rerank_depth:
            with clock.stage("rerank"):
                ranked = list(await asyncio.gather(*_reranked(backend, ref, asked.queries, ranked, rows)))
            stages.append(("rerank", ranked))
    scores = [{name: dict(hits[place]) for name, hits in stages} for place in range(len(asked.queries))]
    found = [
        [
            FoundPassage(i, score, {name: of[i] for name, of in scores[place].items() if i in of}, rows[i])
            for i, score in hits[: asked.top_k]
        ]
        for place, hits in enumerate(ranked)
    ]
    return Answer(found, tokens, clock.milliseconds)


async def _first_stage(
    backend: Backend, ref: Ref, about: About, asked: Search, depth: int, clock: _Clock
) -> tuple[list[tuple[str, list[list[Hit]]]], int]:
    """Name and hits of every stage, the one whose order counts last, and the tokens of the queries."""
    if asked.mode == "bm25":
        return [("bm25", await _words(backend, ref, asked, depth, clock))], 0
    if asked.mode == "dense":
        dense, tokens = await _dense(backend, ref, asked, depth, clock)
        return [("dense", dense)], tokens
    each = max(depth, _FUSED)
    words, (dense, tokens) = await asyncio.gather(
        _words(backend, ref, asked, each, clock), _dense(backend, ref, asked, each, clock)
    )
    with clock.stage("fuse"):
        fused = [fuse(about, of_words, of_dense, depth) for of_words, of_dense in zip(words, dense, strict=True)]
    return [("bm25", words), ("dense", dense), ("fused", fused)], tokens


async def _words(backend: Backend, ref: Ref, asked: Search, k: int, clock: _Clock) -> list[list[Hit]]:
    with clock.stage("bm25"):
        return (await backend.search_words(ref, asked.queries, k, asked.only)).hits()


async def _dense(backend: Backend, ref: Ref, asked: Search, k: int, clock: _Clock) -> tuple[list[list[Hit]], int]:
    with clock.stage("encode"):
        vectors, tokens = await _query_vectors(backend, ref, asked)
    with clock.stage("dense"):
        found = await backend.search_vectors(ToSearch(ref, vectors, k, asked.only))
    return found.hits(), tokens


async def _query_vectors(backend: Backend, ref: Ref, asked: Search) -> tuple[Floats, int]:
    """Unit vectors [queries, d], and the tokens that were read."""
    encoded = await backend.encode(ToEncode(ref, QUERY, asked.queries))
    if asked.expanded is None:
        return encoded.vectors, int(encoded.tokens.sum())
    added = await backend.encode(ToEncode(ref, asked.expanded.side, asked.expanded.texts))
    both = encoded.vectors + added.vectors
    return both / np.linalg.norm(both, axis=1, keepdims=True), int(encoded.tokens.sum() + added.tokens.sum())


def fuse(about: About, words: Sequence[Hit], dense: Sequence[Hit], top_k: int) -> list[Hit]:
    """As the run's evaluation found best for this encoder; by rank where it was not evaluated."""
    fusion = about.fusion or {"method": "rrf", "rrf_k": _RRF_K}
    if fusion["method"] == "weighted":
        return weighted_sum(dense, words, fusion["lexical_weight"], top_k)
    return reciprocal_rank([words, dense], fusion["rrf_k"], top_k)


def _reranked(
    backend: Backend, ref: Ref, queries: Sequence[str], ranked: Sequence[Sequence[Hit]], rows: Mapping[str, Row]
) -> Iterator[asyncio.Future[list[Hit]]]:
    async def one(query: str, hits: Sequence[Hit]) -> list[Hit]:
        if not hits:
            return []
        texts = [full_text(str(rows[hit.passage_id]["title"]), str(rows[hit.passage_id]["text"])) for hit in hits]
        return rerank(hits, (await backend.score(ToScore(ref, query, texts))).logits)

    for query, hits in zip(queries, ranked, strict=True):
        yield asyncio.ensure_future(one(query, hits))
