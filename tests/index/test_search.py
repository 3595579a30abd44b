"""Search with Ray actors: the same answers, whatever dies, hangs or is not what it should be."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from pipeline.errors import RayrieverError
from pipeline.index.manifest import check_encoder
from pipeline.index.search import ShardedIndex
from pipeline.recipe import IndexSection
from pipeline.sharded.folder import ShardFolder
from pipeline.sharded.ids import IDS, IdMap
from tests.index.vectors import (
    ENCODER,
    brute_force,
    build_folder,
    ids_of,
    mixture,
    shuffled_ids,
    spec_of,
    stored,
)

ROWS, DIMENSION = 3000, 48
SECTION = IndexSection(threads_per_shard=1)


@pytest.fixture
def vectors() -> np.ndarray:
    return mixture(ROWS, DIMENSION, 0)


@pytest.fixture
def folder(tmp_path: Path, vectors: np.ndarray) -> ShardFolder:
    return build_folder(tmp_path, stored(tmp_path, vectors, shuffled_ids(ROWS)), spec_of(ROWS, DIMENSION, shards=3))


def test_actors_give_what_brute_force_gives_batch_after_batch(folder, vectors, ray_cluster, monkeypatch):
    """Seven batches, two replicas: none may be lost, repeated or given to another query."""
    monkeypatch.setattr("pipeline.index.search._BATCH", 6)
    queries = mixture(40, DIMENSION, 7)
    with ShardedIndex(folder, SECTION.model_copy(update={"replicas": 2})) as index:
        found = index.search(queries, 20)
    assert ids_of(found) == brute_force(vectors, shuffled_ids(ROWS), queries, 20)


def test_a_filter_reaches_every_shard(folder, vectors, ray_cluster):
    ids, queries = shuffled_ids(ROWS), mixture(3, DIMENSION, 7)
    only = ids[::40]
    with ShardedIndex(folder, SECTION) as index:
        (answer,) = index.answers(queries, 10, only=only)
    assert ids_of(answer.found.hits()) == brute_force(vectors[::40], only, queries, 10)


def test_a_shard_killed_under_load_is_restarted_and_no_answer_is_wrong(folder, vectors, ray_cluster):
    queries = mixture(64, DIMENSION, 7)
    expected = brute_force(vectors, shuffled_ids(ROWS), queries, 10)
    with ShardedIndex(folder, SECTION) as index:
        pids = [pid for replicas in index.shards.wait_until_ready() for pid in replicas]
        killer = threading.Timer(0.3, os.kill, (pids[1], signal.SIGKILL))
        killer.start()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline or killer.is_alive():
            assert ids_of(index.search(queries, 10)) == expected
        after = [pid for replicas in index.shards.wait_until_ready() for pid in replicas]
    assert after[1] != pids[1] and (after[0], after[2]) == (pids[0], pids[2])


def test_a_shard_that_hangs_is_named_and_the_others_answer(folder, vectors, ray_cluster):
    """An answer without a third of the corpus must not look like a whole one."""
    queries = mixture(4, DIMENSION, 7)
    with ShardedIndex(folder, SECTION, timeout_s=5.0) as index:
        ((pid,), *_) = index.shards.wait_until_ready()
        index.search(queries, 10)  # the first one also starts threads, and may be slow on a busy machine
        os.kill(pid, signal.SIGSTOP)
        try:
            (answer,) = index.answers(queries, 10)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert answer.partial and answer.missing == (0,)
        sorted_rows = {i: row for row, i in enumerate(shuffled_ids(ROWS))}
        others = [i for i in shuffled_ids(ROWS)[1000:]]
        rest = vectors[[sorted_rows[i] for i in others]]
        assert ids_of(answer.found.hits()) == brute_force(rest, others, queries, 10)
        deadline = time.monotonic() + 20
        while (whole := next(index.answers(queries, 10))).partial and time.monotonic() < deadline:
            pass
        assert ids_of(whole.found.hits()) == brute_force(vectors, shuffled_ids(ROWS), queries, 10)


def damage_flip(folder: Path) -> None:
    path = folder / "shard-0001.faiss"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_truncate(folder: Path) -> None:
    path = folder / "shard-0001.faiss"
    path.write_bytes(path.read_bytes()[:-100])


def damage_swap(folder: Path) -> None:
    """Ids of another shard of the same size: every answer would be a wrong passage."""
    one, other = folder / "shard-0000.ids.arrow", folder / "shard-0001.ids.arrow"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def damage_missing(folder: Path) -> None:
    (folder / "shard-0001.ids.arrow").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_flip, r"shard-0001.faiss: its checksum is not"),
        (damage_truncate, r"shard-0001.faiss: has [\d,]+ bytes instead of"),
        (damage_swap, r"ids.arrow: (its checksum is not|has)"),
        (damage_missing, r"shard-0001.ids.arrow: is missing"),
    ],
)
def test_a_damaged_shard_is_refused_with_the_reason(folder, ray_cluster, damage, message):
    damage(Path(folder.path))
    with ShardedIndex(folder, SECTION) as index, pytest.raises(RayrieverError, match=message):
        index.shards.wait_until_ready()


def test_a_generation_that_cannot_be_read_is_refused(folder):
    path = Path(folder.path) / "generation-000001.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(RayrieverError, match=r"generation-000001.json: not a generation"):
        folder.current()


def test_ids_of_another_number_than_vectors_are_refused(folder, tmp_path):
    """Where the checksum was made after the mistake."""
    from pipeline.index.manifest import About
    from pipeline.index.shard import open_shard

    generation = folder.current()
    IdMap(pa.array(["a", "b"])).save(tmp_path / "short.ids.arrow")
    short = folder.add(tmp_path / "short.ids.arrow", "short.ids.arrow")
    files = replace(generation.shards["vectors"][0], files={**generation.shards["vectors"][0].files, IDS: short})
    with pytest.raises(RayrieverError, match="1,000 vectors, 2 ids"):
        open_shard(folder, files, About.of(generation.about), 1)


def test_another_encoder_is_refused_by_name(folder, ray_cluster):
    with ShardedIndex(folder, SECTION) as index:
        index.check_encoder(ENCODER)
        index.check_encoder(replace(ENCODER, query_prompt="query: "))
        for other, message in (
            (replace(ENCODER, weights="weights-2"), "weights 'weights-1', not 'weights-2'"),
            (replace(ENCODER, passage_prompt=""), "passage prompt 'passage: ', not ''"),
            (replace(ENCODER, dimension=384), "48 dimensions, those of the encoder 384"),
        ):
            with pytest.raises(RayrieverError, match=message):
                check_encoder(index.about, other, "index")


def test_bad_queries_are_refused_before_they_reach_a_shard(folder, ray_cluster):
    with ShardedIndex(folder, SECTION) as index:
        for queries, k, message in (
            (mixture(1, 8, 0), 10, "48 dimensions, the query has 8"),
            (np.full((1, DIMENSION), np.inf, np.float32), 10, "query is not finite"),
            (mixture(1, DIMENSION, 0), 2049, "top-K is 2049"),
        ):
            with pytest.raises(RayrieverError, match=message):
                index.search(queries, k)


def test_actors_end_with_the_search(folder, ray_cluster):
    with ShardedIndex(folder, SECTION) as index:
        (pids, *_) = index.shards.wait_until_ready()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pids[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pids[0]}").exists()
    assert ray.is_initialized()
