"""The workspace on an object store, against moto's server."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.drill.store import Store
from pipeline.errors import RayrieverError
from pipeline.llm.responses import Answer, to_table
from pipeline.llm.store import ResponseStore
from pipeline.recipe import Recipe
from pipeline.runner import run
from pipeline.workspace import Workspace, explained_write_errors
from tests.small_run import recipe_values, write_corpus, write_like_a_model
from tests.test_end_to_end import Recorder


def test_expired_credentials_are_named_with_what_to_do():
    """Not as pyarrow says it, in the middle of a run whose end is a traceback of Ray's."""
    with Store() as store:
        workspace = Workspace(store.uri("expired"))
        workspace.check_writable()
        store.is_expired = True
        writes = (workspace.check_writable, lambda: workspace.write_bytes(workspace.path("x"), b"x"))
        for write, words in zip(writes, ("ACCESS_DENIED", "ExpiredToken"), strict=True):
            wanted = rf"refuses the credentials.*Renew them.*{words}"
            with pytest.raises(RayrieverError, match=wanted), explained_write_errors(workspace.uri):
                write()
        store.is_expired = False
        workspace.check_writable()


def test_answers_are_stored_and_found(bucket: str):
    workspace = Workspace(f"s3://library/answers?{bucket}")
    ResponseStore(workspace).add(to_table([Answer("r1", "text", "stop", 1, 1, 1)]), pa.array(["p"]), "m")
    assert ResponseStore(workspace).lookup(pa.chunked_array([["r1", "r2"]]))["text"].to_pylist() == ["text"]


@pytest.mark.slow
def test_whole_run_with_its_workspace_in_a_bucket(
    bucket: str, tmp_path: Path, tiny_encoder: Path, chat_server, ray_cluster, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    chat_server.reply = write_like_a_model
    write_corpus(tmp_path)
    values = recipe_values(tmp_path, tiny_encoder, chat_server.url) | {
        "workspace": f"s3://library/run?{bucket}",
        "tracking": {"folder": str(tmp_path / "logs")},
    }
    finished = run(Recipe.model_validate(values), Recorder())
    release = json.loads(Workspace(values["workspace"]).read_bytes("library/run/release.json") or b"")
    assert release["verdict"] in ("ship", "keep base")
    assert "shard-0000.faiss" in finished["index_tuned"].manifest.directories["index"]
