"""The index stage on real Ray: which kind, how many shards, what survives a kill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from pipeline import records
from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.errors import RayrieverError
from pipeline.index import build as stage
from pipeline.index.kinds import choose
from pipeline.index.manifest import About
from pipeline.index.search import ShardedIndex, folder_of
from pipeline.progress import Silent
from pipeline.recipe import IndexSection, Recipe
from pipeline.stage import StageContext
from pipeline.workspace import Workspace
from tests.artifacts import ABOUT
from tests.index.vectors import ENCODER, brute_force, ids_of, mixture, shuffled_ids

ROWS = 6000


def recipe_of(workspace: str, **section: Any) -> Recipe:
    return Recipe.model_validate({"workspace": workspace, "corpus": {"path": "x"}, "index": section})


def encoded(uri: str, vectors: np.ndarray, rows_per_part: int = 1000) -> Artifact:
    out = ArtifactWriter(Workspace(uri), "encode_base", "key")
    dimension = vectors.shape[1]
    schema = records.vector_schema(dimension)
    ids = shuffled_ids(len(vectors))
    pieces = [
        pa.Table.from_arrays(
            [
                pa.array(ids[start : start + rows_per_part]),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors[start : start + rows_per_part].ravel()), dimension),
            ],
            schema=schema,
        )
        for start in range(0, len(vectors), rows_per_part)
    ]
    out.table("vectors", pieces, schema)
    with out.directory("encoder") as folder:
        (folder / "encoder.json").write_text(json.dumps(asdict(replace(ENCODER, dimension=dimension))))
    return out.commit(**ABOUT)


def build(source: Artifact, **section: Any) -> Artifact:
    workspace = source.workspace
    out = ArtifactWriter(workspace, "index_base", "key")
    recipe = recipe_of(workspace.uri, **section)
    stage.build_index(StageContext(recipe, {"encode_base": source}, out, workspace, Silent()), "encode_base")
    return out.commit(**ABOUT)


@pytest.mark.parametrize("kind", ["flat", "ivf_flat", "ivf_pq", "hnsw"])
def test_a_built_index_reaches_the_recall_of_the_recipe(kind: str, tmp_path: Path, ray_cluster):
    vectors = mixture(ROWS, 32, 0)
    artifact = build(encoded(str(tmp_path), vectors), kind=kind, shards=2, recall=0.95)
    queries = mixture(100, 32, 5)
    with ShardedIndex(folder_of(artifact), IndexSection()) as index:
        found = ids_of(index.search(queries, 10))
        about = index.about
    expected = brute_force(vectors, shuffled_ids(ROWS), queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, expected, strict=True)])
    assert recall == 1 if kind == "flat" else recall > 0.93
    assert about.recall is None if kind == "flat" else about.recall >= 0.95
    assert about.encoder.weights == ENCODER.weights
    folder = Path(folder_of(artifact).path)
    assert not list((tmp_path / "building").rglob("*")), "what was built lies twice"
    assert artifact.directory("index") == folder


def test_given_probes_are_kept_and_their_recall_is_told(tmp_path: Path, ray_cluster):
    artifact = build(encoded(str(tmp_path), mixture(ROWS, 32, 0)), kind="ivf_flat", lists=64, probes=1)
    about = About.of(folder_of(artifact).current().about)
    assert about.effort.probes == 1 and about.recall is not None and about.recall < 0.95


@pytest.mark.parametrize(
    ("rows", "section", "kind", "why"),
    [
        (50_000, {}, "flat", "exact search is fast enough"),
        (1_000_000, {}, "ivf_flat", "until recall 0.95"),
        (1_000_000, {"recall": 1.0}, "flat", "asks for exact"),
        (10_000_000, {"precision": "float16"}, "flat", "float16 is for flat"),
        (10_000_000, {}, "ivf_pq", "more than index.memory_mb = 8,000"),
        (10_000_000, {"kind": "hnsw"}, "hnsw", "named in the recipe"),
    ],
)
def test_auto_says_why(rows: int, section: dict[str, Any], kind: str, why: str):
    choice = choose(IndexSection.model_validate(section), rows, 384)
    assert choice.spec.kind == kind and why in choice.why
    assert choice.spec.shards == -(-rows * 384 * 4 // 10**9)


def test_what_a_kind_does_not_use_is_refused():
    with pytest.raises(RayrieverError, match=r"precision float16 is for index.kind flat"):
        choose(IndexSection(kind="hnsw", precision="float16"), 1000, 64)
    with pytest.raises(RayrieverError, match=r"ivf_pq needs an even divisor of the dimension, and 7 has none"):
        choose(IndexSection(kind="ivf_pq"), 1000, 7).spec.new_index()


PROGRAM = """
import sys
from pipeline.artifact import Artifact
from pipeline.workspace import Workspace
from tests.index import test_build
test_build.build(Artifact.find(Workspace(sys.argv[1]), "encode_base", "key"), kind="ivf_flat", lists=16, shards=40)
"""


@pytest.mark.slow
def test_a_killed_build_goes_on_with_the_missing_shards(tmp_path: Path, ray_cluster):
    """Shards are the hours of a large build: those that are done must be kept, and the result must be the same."""
    vectors = mixture(ROWS, 32, 0)
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    build(encoded(str(quiet), vectors), kind="ivf_flat", lists=16, shards=40)
    encoded(str(killed), vectors)
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(killed)], start_new_session=True)
    deadline = time.monotonic() + 120
    while len(done := list(killed.glob("building/*/*/shard-*.built.json"))) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in killed.glob("building/*/*/shard-*.faiss")}
    assert len(kept) >= 5 and len(done) < 40
    source = Artifact.find(Workspace(str(killed)), "encode_base", "key")
    assert source is not None
    resumed = build(source, kind="ivf_flat", lists=16, shards=40)
    folder = Path(folder_of(resumed).path)
    noted = {path.name.replace(".built.json", ".faiss") for path in done}
    assert all((folder / name).stat().st_mtime_ns == kept[name] for name in noted), "built again"
    queries = mixture(50, 32, 5)
    results = []
    for root in (quiet, killed):
        artifact = Artifact.find(Workspace(str(root)), "index_base", "key")
        assert artifact is not None
        with ShardedIndex(folder_of(artifact), IndexSection()) as index:
            results.append(index.search(queries, 20))
    assert results[0] == results[1]


@pytest.mark.slow
def test_a_killed_builder_is_started_again_by_ray(tmp_path: Path, ray_cluster):
    """A task that loses its process runs once more; no shard may be left out or built of the wrong rows."""
    vectors = mixture(60_000, 64, 0)
    source = encoded(str(tmp_path), vectors)
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for process in psutil.process_iter(["cmdline"]):
                if process.info["cmdline"] and process.info["cmdline"][0] == "ray::build":
                    process.kill()
                    killed.append(process.pid)
                    return
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    artifact = build(source, kind="flat", shards=4)
    killer.join()
    assert killed
    queries = mixture(30, 64, 5)
    with ShardedIndex(folder_of(artifact), IndexSection()) as index:
        assert ids_of(index.search(queries, 10)) == brute_force(vectors, shuffled_ids(60_000), queries, 10)
