"""Artifacts: nothing half-written is ever read."""

import json
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.errors import RayrieverError
from pipeline.workspace import Workspace
from tests.artifacts import ABOUT

SCHEMA = pa.schema([("n", pa.int64())])


def table(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def test_artifact_without_manifest_is_not_there_and_the_next_attempt_starts_clean(tmp_path: Path):
    workspace = Workspace(str(tmp_path))
    ArtifactWriter(workspace, "s", "k").table("t", [table(1), table(2), table(3)], SCHEMA)
    assert Artifact.find(workspace, "s", "k") is None
    out = ArtifactWriter(workspace, "s", "k")
    out.table("t", table(7), SCHEMA)
    out.commit(**ABOUT)
    found = Artifact.find(workspace, "s", "k")
    assert found is not None and found.table("t")["n"].to_pylist() == [7]
    assert len(list((tmp_path / "stages/s/k" / found.manifest.attempt / "t").iterdir())) == 1


def test_finished_artifact_stays_until_a_new_attempt_is_whole(tmp_path: Path):
    """A forced rerun that fails must not have thrown away what was there."""
    workspace = Workspace(str(tmp_path))
    for numbers in ((1,), (2,)):
        out = ArtifactWriter(workspace, "s", "k")
        out.table("t", table(*numbers), SCHEMA)
        if numbers == (1,):
            out.commit(**ABOUT)
    found = Artifact.find(workspace, "s", "k")
    assert found is not None and found.table("t")["n"].to_pylist() == [1]
    out.commit(**ABOUT)
    found = Artifact.find(workspace, "s", "k")
    assert found is not None and found.table("t")["n"].to_pylist() == [2]
    assert len(workspace.list_folders("stages", "s", "k")) == 1


def test_manifest_tells_rows_schema_quarantine_and_outcomes(tmp_path: Path):
    out = ArtifactWriter(Workspace(str(tmp_path)), "s", "k")
    out.table("t", [table(1, 2), table(3)], SCHEMA)
    out.quarantine("file.jsonl", 7, "a", "no text")
    out.outcomes["ok"] += 3
    out.commit(**ABOUT)
    manifest = json.loads((tmp_path / "stages/s/k/manifest.json").read_text())
    assert manifest["tables"]["t"] == {
        "parts": ["t/part-00000.parquet", "t/part-00001.parquet"],
        "rows": 3,
        "columns": {"n": "int64"},
    }
    assert (manifest["quarantined"], manifest["outcomes"]) == (1, {"ok": 3})


def test_changed_file_of_an_artifact_is_noticed(tmp_path: Path):
    """FAISS reads an index with a flipped byte without complaint."""
    out = ArtifactWriter(Workspace(str(tmp_path)), "s", "k")
    with out.directory("d") as folder:
        (folder / "f").write_bytes(b"content")
    artifact = out.commit(**ABOUT)
    assert artifact.file("d", "f").read_bytes() == b"content"
    Path(artifact.folder, "d/f").write_bytes(b"cOntent")
    with pytest.raises(RayrieverError, match=r"missing or changed.*--from s"):
        artifact.file("d", "f")


def test_artifact_is_committed_by_its_manifest_and_read_back(bucket: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    workspace = Workspace(f"s3://library/work/space?{bucket}")
    workspace.check_writable()
    out = ArtifactWriter(workspace, "s", "k")
    out.table("t", [table(1), table(2)], SCHEMA)
    with out.directory("d") as folder:
        (folder / "below").mkdir()
        (folder / "below/f").write_bytes(b"content")
    assert Artifact.find(workspace, "s", "k") is None
    out.commit(**ABOUT)
    artifact = Artifact.find(Workspace(workspace.uri), "s", "k")
    assert artifact is not None
    assert len(workspace.list_folders("stages", "s", "k")) == 1
    assert sorted(artifact.table("t")["n"].to_pylist()) == [1, 2]
    assert (artifact.directory("d") / "below/f").read_bytes() == b"content"
    workspace.write_bytes(f"{artifact.folder}/d/below/f", b"cOntent")
    (artifact.directory("d") / "below/f").unlink()
    with pytest.raises(RayrieverError, match="missing or changed"):
        artifact.file("d", "below/f")


def test_folder_from_a_bucket_is_never_seen_half_fetched(bucket: str, tmp_path: Path, monkeypatch):
    """All actors of a machine fetch a model at the same moment, and each maps its weights as soon as it has them."""
    monkeypatch.setenv("HOME", str(tmp_path))
    workspace, size = Workspace(f"s3://library/work?{bucket}"), 10_000_000
    out = ArtifactWriter(workspace, "s", "k")
    with out.directory("d") as folder:
        (folder / "f").write_bytes(bytes(size))
    artifact = out.commit(**ABOUT)
    fetched = tmp_path / ".cache/rayriever" / artifact.manifest.identity / "d/f"
    fetching = threading.Thread(target=artifact.directory, args=("d",))
    fetching.start()
    seen: set[int] = set()
    while fetching.is_alive():
        time.sleep(0.001)
        seen |= {each.stat().st_size for each in [fetched] if each.exists()}
    assert seen <= {size}
    assert [each.name for each in fetched.parent.iterdir()] == ["f"]
