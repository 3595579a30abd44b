"""Sharded search against one exact index."""

from itertools import pairwise

import faiss
import numpy as np
import pytest

from pipeline.errors import RayrieverError
from pipeline.index.merge import merge
from pipeline.index.shard import Shard
from pipeline.rankings import Hit


def unit(rows: int, dimension: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def sharded(vectors: np.ndarray, ids: list[str], shards: int, queries: np.ndarray, k: int) -> list[list[Hit]]:
    bounds = [len(ids) * n // shards for n in range(shards + 1)]
    built = [Shard.build(ids[a:b], vectors[a:b]) for a, b in pairwise(bounds)]
    answers = [shard.search(queries, k) for shard in built]
    return [merge(of_query, k) for of_query in zip(*answers, strict=True)]


def brute_force(vectors: np.ndarray, ids: list[str], queries: np.ndarray, k: int) -> list[list[str]]:
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    return [[ids[i] for i in sorted(range(len(ids)), key=lambda i: (-row[i], ids[i]))[:k]] for row in scores]


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_shards_together_equal_one_exact_index(shards: int):
    vectors, queries = unit(3000, 48, 0), unit(40, 48, 1)
    ids = [f"d{number}" for number in np.random.default_rng(2).permutation(3000)]
    found = sharded(vectors, ids, shards, queries, 1000)
    index = faiss.IndexFlatIP(48)
    index.add(vectors)
    scores, _ = index.search(queries, 1000)
    assert np.allclose([[hit.score for hit in hits] for hits in found], scores, atol=1e-5)
    assert [[hit.passage_id for hit in hits] for hits in found] == brute_force(vectors, ids, queries, 1000)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_ties_go_to_the_smaller_id_also_at_the_cut(shards: int):
    """Ninety equal passages, cut at ten: which ten are returned must not depend on the sharding."""
    one = unit(1, 16, 0)
    vectors = np.concatenate([np.repeat(one, 90, axis=0), unit(60, 16, 3) * 0.5])
    ids = [f"{number:03d}" for number in np.random.default_rng(0).permutation(150)]
    equal = sorted(ids[:90])
    for k in (1, 10, 89, 90):
        assert [hit.passage_id for hit in sharded(vectors, ids, shards, one, k)[0]] == equal[:k]


def test_more_hits_than_passages_gives_all_of_them():
    vectors = unit(5, 8, 0)
    assert len(sharded(vectors, list("abcde"), 2, unit(1, 8, 1), 50)[0]) == 5


def test_wrong_dimension_is_a_message_and_not_an_assertion():
    with pytest.raises(RayrieverError, match="8 dimensions, the query has 9"):
        Shard.build(["a"], unit(1, 8, 0)).search(unit(1, 9, 0), 1)


def test_vector_that_is_not_finite_is_refused_with_its_passage():
    """FAISS accepts NaN and answers -1 for ever after."""
    vectors = unit(3, 8, 0)
    vectors[1, 2] = np.nan
    with pytest.raises(RayrieverError, match="'b' is not finite"):
        Shard.build(["a", "b", "c"], vectors)


def test_shard_is_readable_with_plain_faiss(tmp_path):
    shard = Shard.build(["a", "b"], unit(2, 8, 0))
    (tmp_path / "x.faiss").write_bytes(shard.index_bytes())
    assert faiss.read_index(str(tmp_path / "x.faiss")).ntotal == 2
