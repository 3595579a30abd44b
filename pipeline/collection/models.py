"""The models that a generation holds beside its shards: the encoder of its vectors, and a reranker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pipeline.digest import digest
from pipeline.errors import RayrieverError
from pipeline.local_files import cache_folder, link_or_copy
from pipeline.sharded.folder import File, Generation, ShardFolder

Role = Literal["encoder", "reranker"]
ENCODER: Role = "encoder"
RERANKER: Role = "reranker"
# Formats that run code when they are loaded
_UNSAFE = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".py", ".so"}


def store_model(folder: ShardFolder, role: Role, model: Path, prefix: str) -> dict[str, File]:
    """Copy the files of a model into the collection; their keys are those of `Generation.extra`.

    Raises RayrieverError for files that may run code when they are loaded.
    """
    files = {path.relative_to(model).as_posix(): path for path in sorted(model.rglob("*")) if path.is_file()}
    _check_safe(files, str(model))
    stored: dict[str, File] = {}
    with folder.scratch() as scratch:
        for name, path in files.items():
            copy = scratch / f"{len(stored):04d}"
            link_or_copy(path, copy)
            stored[f"{role}/{name}"] = folder.add(copy, f"{prefix}{role}/{name}")
    return stored


def model_key(generation: Generation, role: Role) -> str | None:
    """Stands for the files of a generation's model; equal keys mean equal models. None where there is no such model."""
    files = _files(generation, role)
    return digest({name: file.sha256 for name, file in files.items()}) if files else None


def fetch_model(folder: ShardFolder, generation: Generation, role: Role) -> Path:
    """Local folder of a generation's model, every file checked; from an object store it is copied once.

    Raises RayrieverError where the generation has no such model, or its files are not those that were written.
    """
    files = _files(generation, role)
    if not files:
        raise RayrieverError(
            f"{folder.path}: generation {generation.number} holds no {role}. "
            "Publish the run again: rayriever collection publish RECIPE."
        )
    _check_safe(files, folder.path)
    local = dict(zip(files, folder.fetch(files.values()), strict=True))
    if folder.workspace.is_local:
        name, path = next(iter(local.items()))
        return path.parents[name.count("/")]
    target = cache_folder() / "models" / str(model_key(generation, role))
    for name, path in local.items():
        place = target / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, place)
    return target


def _files(generation: Generation, role: Role) -> dict[str, File]:
    start = f"{role}/"
    return {name.removeprefix(start): file for name, file in generation.extra.items() if name.startswith(start)}


def _check_safe(names: Mapping[str, object], where: str) -> None:
    unsafe = [name for name in names if Path(name).suffix.lower() in _UNSAFE]
    if unsafe:
        raise RayrieverError(
            f"{where}: {unsafe[0]} may run code when it is loaded. Save the model as safetensors, without such files."
        )
