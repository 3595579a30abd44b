"""What a core computes per second, of that which samples of a corpus have too little of to tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.index.kinds import Spec
from pipeline.recipe import LexicalSection

# Names of what is computed, and what it is counted in
COMPARED = "numbers compared"  # components of vectors multiplied with those of others, many at a time
COMPARED_ON_GPU = "numbers compared on a GPU"  # not measured
LISTED = {"ivf_flat": "numbers in lists", "ivf_pq": "numbers in coded lists"}  # that a query is compared with, by kind
WEIGHED = "passages weighed"  # by BM25 for a query, whether or not they have a word of it

PROBED = 32  # lists, about, for a recall of 0.95; each shard has its part of each
_DIMENSION = 384
_COMPARED_ROWS = 4096
_LISTED_ROWS, _LISTS, _LISTED_QUERIES = 65_536, 64, 64  # more than a cache holds, in lists as long as those of millions
_WEIGHED_ROWS, _WEIGHED_QUERIES, _QUERY_WORDS = 200_000, 64, 6
_REPEATED = 3


def measure_speeds(texts: Sequence[str], lexical: LexicalSection) -> dict[str, float]:
    """Of one core where tasks run, per second, by name; the best of a few tries, as others may be at work there.

    Args:
        texts: passages of the corpus, whose words are weighed.
    """
    import ray

    speeds: dict[str, float] = ray.get(ray.remote(num_cpus=1)(speeds_of_core).remote(list(texts), lexical))
    return speeds


def speeds_of_core(texts: Sequence[str], lexical: LexicalSection) -> dict[str, float]:
    """Of the one that this process is on."""
    import faiss

    faiss.omp_set_num_threads(1)
    listed = {name: _listed(kind) for kind, name in LISTED.items()}
    return {COMPARED: _compared(), **listed, WEIGHED: _weighed(texts, lexical)}


def _compared() -> float:
    """As k-means does, an index of lists when vectors are added, and exact search."""
    spec = Spec("flat", "float32", _DIMENSION, shards=1, lists=0, neighbours=0, build_depth=0)
    vectors, index = _vectors(_COMPARED_ROWS), spec.new_index()
    index.add(vectors)
    return len(vectors) * vectors.size / _least_s(lambda: index.search(vectors, 1))


def _listed(kind: Any) -> float:
    import faiss

    spec = Spec(kind, "float32", _DIMENSION, shards=1, lists=_LISTS, neighbours=0, build_depth=0)
    vectors, index = _vectors(_LISTED_ROWS), spec.new_index()
    index.train(vectors)
    index.add(vectors)
    faiss.extract_index_ivf(index).nprobe = PROBED
    seen = _LISTED_QUERIES * vectors.size * PROBED / _LISTS
    return seen / _least_s(lambda: index.search(vectors[:_LISTED_QUERIES], 100))


def _weighed(texts: Sequence[str], section: LexicalSection) -> float:
    """Of the corpus's own words: its passages again and again, until they are as many as a shard may have."""
    import pyarrow as pa

    from pipeline.lexical.bm25 import index_words
    from pipeline.lexical.statistics import count
    from pipeline.lexical.words import words_of

    once = words_of([texts], section.stemmer)
    times = -(-_WEIGHED_ROWS // len(texts))
    words = replace(once, tokens=np.tile(once.tokens, times), lengths=np.tile(once.lengths, times))
    ids = pa.array([f"{number:09d}" for number in range(len(words.lengths))])
    shard = index_words(words, ids, count(once), section)
    places = np.random.default_rng(0).random((_WEIGHED_QUERIES, _QUERY_WORDS)) * len(once.tokens)
    queries = [[once.vocabulary[token] for token in once.tokens[row]] for row in places.astype(int) if len(once.tokens)]
    return _WEIGHED_QUERIES * len(ids) / _least_s(lambda: shard.search(queries, 100))


def _vectors(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    found = np.random.default_rng(0).standard_normal((count, _DIMENSION), np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def _least_s(act: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATED):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def seconds_of(computed: Mapping[str, float], speeds: Mapping[str, float]) -> float:
    """What one core takes for all of it."""
    return sum(amount / speeds[name] for name, amount in computed.items())
