"""Artifacts: nothing half-written is ever read."""

import errno
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import RayrieverError
from pipeline.workspace import ArtifactWriter, Workspace, digest, explained_write_errors

SCHEMA = pa.schema([("n", pa.int64())])
ABOUT = {"inputs": {}, "section": {}, "code_version": "0", "finished_at": "", "seconds": 0.0, "peak_memory_mb": 0.0}


def table(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def test_artifact_without_manifest_is_not_there_and_the_next_attempt_starts_clean(tmp_path: Path):
    workspace = Workspace(str(tmp_path))
    ArtifactWriter(workspace, "s", "k").table("t", [table(1), table(2), table(3)], SCHEMA)
    assert workspace.artifact("s", "k") is None
    out = ArtifactWriter(workspace, "s", "k")
    out.table("t", table(7), SCHEMA)
    out.commit(**ABOUT)
    found = workspace.artifact("s", "k")
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
    found = workspace.artifact("s", "k")
    assert found is not None and found.table("t")["n"].to_pylist() == [1]
    out.commit(**ABOUT)
    found = workspace.artifact("s", "k")
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


def test_write_errors_become_one_readable_message():
    for code, words in ((errno.ENOSPC, "disk is full"), (errno.EACCES, "cannot be written")):
        with pytest.raises(RayrieverError, match=words), explained_write_errors("here"):
            raise OSError(code, os.strerror(code))
    with pytest.raises(OSError), explained_write_errors("here"):  # any other stays as it is
        raise OSError(errno.ECONNREFUSED, "x")


def test_workspace_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RayrieverError, match="cannot be written"):
        Workspace(str(tmp_path / "file" / "workspace")).check_writable()


def test_unknown_uri_is_refused():
    with pytest.raises(RayrieverError, match="ftp://"):
        Workspace("ftp://somewhere/else")


def test_digest_is_stable_across_versions():
    """A changed digest would make every finished stage run again."""
    assert digest({"b": 1, "a": [1.5, None, "é"]}) == "10c71012fb391fea"
