"""Shards of weighted terms against a dense product, without a model and without Ray."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from pipeline.errors import RayrieverError
from pipeline.rankings import Hit
from pipeline.sharded.folder import ShardFolder
from pipeline.sharded.found import merge
from pipeline.sharded.rows import bounds_of
from pipeline.sparse.shard import TermShard, Weighted, index_terms, open_term_shard, save


def random_weights(rows: int, columns: int, share: float, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    weights = draw.random((rows, columns), dtype=np.float32) + np.float32(0.1)
    return np.where(draw.random((rows, columns)) < share, weights, np.float32(0))


def weighted(rows: np.ndarray) -> list[Weighted]:
    return [Weighted(np.flatnonzero(row).astype(np.int32), row[row > 0]) for row in rows]


def shards_of(passages: np.ndarray, ids: list[str], shards: int) -> list[TermShard]:
    matrix = sparse.csr_matrix(passages)
    return [index_terms(matrix[low:high], pa.array(ids[low:high])) for low, high in bounds_of(len(ids), shards)]


def search(shards: list[TermShard], queries: np.ndarray, k: int) -> list[list[Hit]]:
    return merge([shard.search(weighted(queries), k) for shard in shards], k).hits()


def dense(passages: np.ndarray, ids: list[str], queries: np.ndarray, k: int) -> list[list[Hit]]:
    scores = (queries.astype(np.float64) @ passages.T.astype(np.float64)).astype(np.float32).tolist()
    rows = [sorted((-score, name) for score, name in zip(row, ids, strict=True) if score > 0) for row in scores]
    return [[Hit(name, -score) for score, name in row[:k]] for row in rows]


@pytest.mark.parametrize("k", [1, 10, 500])
def test_any_number_of_shards_ranks_as_one_dense_product(k: int):
    """Sums of another order, or rounded after the ranking, would differ in a last bit and swap two passages."""
    passages, queries = random_weights(300, 40, 0.2, seed=0), random_weights(30, 40, 0.2, seed=1)
    passages[50:60] = passages[40]
    ids = [f"p{number:03d}" for number in np.random.default_rng(2).permutation(300)]
    expected = dense(passages, ids, queries, k)
    whole = search(shards_of(passages, ids, 1), queries, k)
    for hits, wanted in zip(whole, expected, strict=True):
        assert [hit.passage_id for hit in hits] == [hit.passage_id for hit in wanted]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], rel=1e-6)
    for shards in (2, 3, 7):
        assert search(shards_of(passages, ids, shards), queries, k) == whole


def test_ties_go_by_passage_id_also_at_the_cut():
    passages = np.array([[1, 0], [2, 0], [1, 0], [1, 0], [0, 1]], dtype=np.float32)
    ids, query = ["d", "e", "b", "a", "c"], np.array([[1, 0]], dtype=np.float32)
    for shards in (1, 2, 3):
        assert search(shards_of(passages, ids, shards), query, 3) == [[Hit("e", 2), Hit("a", 1), Hit("b", 1)]]


def test_scores_that_differ_beyond_float32_are_ties_in_every_sharding():
    """Ranked in float64 inside a shard and merged in float32, the order would depend on who shares a shard."""
    passages = np.array([[1, 0], [1, 1e-9]], dtype=np.float32)
    query = np.array([[1, 1]], dtype=np.float32)
    for shards in (1, 2):
        assert search(shards_of(passages, ["a", "b"], shards), query, 1) == [[Hit("a", 1)]]


def test_passages_without_a_common_term_are_no_hits():
    passages = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32)
    queries = np.array([[0, 0, 1], [0, 0, 0], [0, 2, 0]], dtype=np.float32)
    for shards in (1, 3):
        assert search(shards_of(passages, ["a", "b", "c"], shards), queries, 5) == [[], [], [Hit("b", 2)]]


def test_saved_shard_is_mapped_and_searches_the_same(tmp_path: Path):
    passages, queries = random_weights(100, 40, 0.2, seed=0), random_weights(5, 40, 0.2, seed=1)
    ids = [f"p{number:03d}" for number in range(100)]
    (shard,) = shards_of(passages, ids, 1)
    folder = ShardFolder(str(tmp_path), str(tmp_path / "terms"))
    with folder.scratch() as scratch:
        files = folder.add_shard(100, "term-shard-0000", save(shard, scratch))
    opened = open_term_shard(folder, files)
    mapped = opened.postings.data
    while not isinstance(mapped, np.memmap) and mapped.base is not None:
        mapped = mapped.base
    assert isinstance(mapped, np.memmap)
    assert search([opened], queries, 20) == search([shard], queries, 20)


@pytest.mark.parametrize("role", ["data", "indices", "indptr", "ids"])
def test_damaged_or_deleted_file_is_refused_by_name(tmp_path: Path, role: str):
    (shard,) = shards_of(random_weights(20, 10, 0.5, seed=0), [f"p{number}" for number in range(20)], 1)
    folder = ShardFolder(str(tmp_path), str(tmp_path / "terms"))
    with folder.scratch() as scratch:
        files = folder.add_shard(20, "term-shard-0000", save(shard, scratch))
    path = Path(folder.path) / files.files[role].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RayrieverError, match=rf"{path.name}: its checksum"):
        open_term_shard(folder, files)
    path.unlink()
    with pytest.raises(RayrieverError, match=rf"{path.name}: is missing"):
        open_term_shard(folder, files)
