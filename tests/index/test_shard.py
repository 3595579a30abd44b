"""Sharded search against one exact index, in one process."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from pipeline.errors import RayrieverError
from pipeline.index import builder
from tests.index.vectors import (
    brute_force,
    build_folder,
    ids_of,
    mixture,
    open_all,
    search,
    shuffled_ids,
    spec_of,
    stored,
    unit,
)


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_shards_together_equal_one_exact_index(shards: int, tmp_path: Path):
    vectors, queries, ids = unit(3000, 48, 0), unit(40, 48, 1), shuffled_ids(3000)
    vectors[100:200] = vectors[0]  # duplicates
    folder = build_folder(tmp_path, stored(tmp_path, vectors, ids), spec_of(3000, 48, shards=shards))
    found = search(open_all(folder), queries, 1000)
    index = faiss.IndexFlatIP(48)
    index.add(vectors)
    scores, _ = index.search(queries, 1000)
    assert np.allclose([[hit.score for hit in hits] for hits in found], scores, atol=1e-5)
    assert ids_of(found) == brute_force(vectors, ids, queries, 1000)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_ties_go_to_the_smaller_id_also_at_the_cut(shards: int, tmp_path: Path):
    """Ninety equal passages, cut at ten: which ten are returned must not depend on the sharding."""
    one = unit(1, 16, 0)
    vectors = np.concatenate([np.repeat(one, 90, axis=0), unit(60, 16, 3) * 0.5])
    ids = [f"{number:03d}" for number in np.random.default_rng(0).permutation(150)]
    opened = open_all(build_folder(tmp_path, stored(tmp_path, vectors, ids), spec_of(150, 16, shards=shards)))
    equal = sorted(ids[:90])
    for k in (1, 10, 89, 90):
        assert ids_of(search(opened, one, k))[0] == equal[:k]


def test_more_hits_than_passages_gives_all_of_them(tmp_path: Path):
    opened = open_all(build_folder(tmp_path, stored(tmp_path, unit(5, 8, 0), list("abcde")), spec_of(5, 8, shards=2)))
    assert len(search(opened, unit(1, 8, 1), 50)[0]) == 5


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        ({"kind": "ivf_flat", "lists": 32}, 1.0),
        ({"kind": "ivf_pq", "lists": 32}, 0.97),
        ({"kind": "hnsw"}, 0.97),
        ({"kind": "flat", "precision": "float16"}, 0.99),
        ({"kind": "flat", "precision": "bfloat16"}, 0.95),
        ({"kind": "flat", "precision": "int8"}, 0.95),
    ],
)
def test_every_kind_finds_its_neighbours_and_scores_them_exactly(section: dict, wanted: float, tmp_path: Path):
    """Compressed codes rank the candidates; their scores must not be what the user sees."""
    from pipeline.index.manifest import Effort

    vectors, ids, queries = mixture(4000, 48, 0), shuffled_ids(4000), mixture(50, 48, 7)
    spec = spec_of(4000, 48, shards=2, **section)
    effort = Effort(probes=32, depth=128, candidates=10)
    opened = open_all(build_folder(tmp_path, stored(tmp_path, vectors, ids), spec, effort))
    found, expected = search(opened, queries, 10), brute_force(vectors, ids, queries, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids_of(found), expected, strict=True)]) >= wanted
    if section.get("precision", "float32") == "float32":
        row = {passage_id: vector for passage_id, vector in zip(ids, vectors, strict=True)}
        for query, hits in zip(queries, found, strict=True):
            assert [hit.score for hit in hits] == pytest.approx([row[hit.passage_id] @ query for hit in hits], abs=1e-5)


@pytest.mark.parametrize("kind", ["flat", "ivf_flat", "ivf_pq", "hnsw"])
@pytest.mark.parametrize("share", [0.001, 0.4])
def test_a_filter_lets_nothing_else_through_and_loses_nothing(kind: str, share: float, tmp_path: Path):
    from pipeline.index.manifest import Effort

    vectors, ids, queries = mixture(12_000, 16, 0), shuffled_ids(12_000), mixture(5, 16, 7)
    spec = spec_of(12_000, 16, kind=kind, shards=1)
    opened = open_all(build_folder(tmp_path, stored(tmp_path, vectors, ids), spec, Effort(spec.lists, 2048, 100)))
    only = sorted(set(np.random.default_rng(5).choice(ids, int(share * 12_000), replace=False)))
    rows = [ids.index(each) for each in only]
    found = ids_of(search(opened, queries, 10, only=[*only, "unknown"]))
    expected = brute_force(vectors[rows], only, queries, 10)
    assert all(set(each) <= set(only) for each in found)
    if kind in ("flat", "ivf_flat") or share < 0.01:
        assert found == expected
    else:
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, expected, strict=True)]) > 0.9


def test_a_filter_of_unknown_ids_finds_nothing(tmp_path: Path):
    opened = open_all(build_folder(tmp_path, stored(tmp_path, unit(5, 8, 0), list("abcde")), spec_of(5, 8)))
    assert search(opened, unit(2, 8, 1), 3, only=["z"]) == [[], []]


def test_exact_search_of_an_approximate_index_equals_brute_force(tmp_path: Path):
    """It is what recall is measured against."""
    vectors, ids, queries = mixture(3000, 48, 0), shuffled_ids(3000), mixture(20, 48, 7)
    spec = spec_of(3000, 48, kind="ivf_pq", shards=1)
    (shard,) = open_all(build_folder(tmp_path, stored(tmp_path, vectors, ids), spec))
    assert ids_of(shard.search(queries, 10, exact=True).hits()) == brute_force(vectors, ids, queries, 10)


def test_wrong_dimension_is_a_message_and_not_an_assertion(tmp_path: Path):
    (shard,) = open_all(build_folder(tmp_path, stored(tmp_path, unit(3, 8, 0), list("abc")), spec_of(3, 8)))
    with pytest.raises(RayrieverError, match="8 dimensions, the query has 9"):
        shard.search(unit(1, 9, 0), 1)


def test_vector_that_is_not_finite_is_refused_with_its_passage(tmp_path: Path):
    """FAISS accepts NaN and answers -1 for ever after."""
    vectors = unit(3, 8, 0)
    vectors[1, 2] = np.nan
    with pytest.raises(RayrieverError, match="'b' is not finite"):
        build_folder(tmp_path, stored(tmp_path, vectors, list("abc")), spec_of(3, 8))


def test_a_query_that_is_not_finite_is_refused(tmp_path: Path):
    (shard,) = open_all(build_folder(tmp_path, stored(tmp_path, unit(3, 8, 0), list("abc")), spec_of(3, 8)))
    with pytest.raises(RayrieverError, match="query is not finite"):
        shard.search(np.full((1, 8), np.nan, np.float32), 1)


def test_a_passage_with_two_vectors_is_refused(tmp_path: Path):
    """FAISS accepts it; the passage would be found twice."""
    with pytest.raises(RayrieverError, match="'a' has two vectors"):
        build_folder(tmp_path, stored(tmp_path, unit(3, 8, 0), ["a", "b", "a"]), spec_of(3, 8))


@pytest.mark.parametrize("kind", ["flat", "ivf_flat", "ivf_pq", "hnsw"])
def test_shards_are_readable_with_plain_faiss(kind: str, tmp_path: Path):
    spec = spec_of(3000, 16, kind=kind, shards=1)
    folder = build_folder(tmp_path, stored(tmp_path, unit(3000, 16, 0), shuffled_ids(3000)), spec)
    index = faiss.read_index(f"{folder.path}/shard-0000.faiss")
    assert (index.ntotal, index.d, index.metric_type) == (3000, 16, faiss.METRIC_INNER_PRODUCT)


def test_all_shards_share_the_centroids_of_one_training(tmp_path: Path):
    spec = spec_of(3000, 16, kind="ivf_flat", lists=16, shards=3)
    folder = build_folder(tmp_path, stored(tmp_path, mixture(3000, 16, 0), shuffled_ids(3000)), spec)
    indexes = [faiss.read_index(f"{folder.path}/shard-{number:04d}.faiss") for number in range(3)]
    first, *others = [index.quantizer.reconstruct_n(0, 16) for index in indexes]
    assert all(np.array_equal(first, each) for each in others)


def test_the_sample_takes_of_every_part_its_share(tmp_path: Path):
    """Training on the first part alone would leave out whatever comes later."""
    vectors = np.repeat(np.arange(10, dtype=np.float32), 300)[:, None] * np.ones((1, 4), np.float32)
    sample = builder._sample(stored(tmp_path, vectors, shuffled_ids(3000), rows_per_part=300), 100)
    assert np.unique(sample[:, 0], return_counts=True)[1].tolist() == [10] * 10
