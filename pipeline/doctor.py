"""Check that this machine can run a recipe, before anything is spent."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe
from pipeline.workspace import Workspace

_PACKAGES = (
    "ray",
    "torch",
    "transformers",
    "sentence-transformers",
    "faiss-cpu",
    "faiss-gpu",
    "pyarrow",
    "vllm",
    "openai",
)
_LITTLE_DISK_GB = 5


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, how it is, and what to do where it is not well."""

    name: str
    state: Literal["ok", "warning", "failed"]
    detail: str


def examine(recipe: Recipe) -> list[Check]:
    """All checks; none of them raises."""
    checks: list[tuple[str, Callable[[Recipe], Check]]] = [
        ("versions", _versions),
        ("workspace", _workspace),
        ("disk", _disk),
        ("torch", _torch),
        ("encoder", _encoder),
        ("llm", _llm),
        ("corpus", _corpus),
        ("ray", _ray),
    ]
    return [_safely(name, check, recipe) for name, check in checks]


def _safely(name: str, check: Callable[[Recipe], Check], recipe: Recipe) -> Check:
    try:
        return check(recipe)
    except (RayrieverError, OSError, ImportError) as error:
        return Check(name, "failed", str(error))


def _versions(recipe: Recipe) -> Check:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return Check("versions", "ok", f"python {platform.python_version()}, {', '.join(found)}")


def _workspace(recipe: Recipe) -> Check:
    workspace = Workspace(recipe.workspace)
    workspace.check_writable()
    return Check("workspace", "ok", workspace.uri)


def _disk(recipe: Recipe) -> Check:
    workspace = Workspace(recipe.workspace)
    if not workspace.is_local:
        return Check("disk", "ok", "the workspace is on object storage")
    free = shutil.disk_usage(Path(workspace.root)).free / 1e9
    detail = f"{free:.1f} GB free at {workspace.root}"
    if free < _LITTLE_DISK_GB:
        return Check("disk", "warning", f"{detail}; a training checkpoint takes about 0.3 GB for a small encoder")
    return Check("disk", "ok", detail)


def _torch(recipe: Recipe) -> Check:
    import torch

    devices = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    wants = recipe.distill.use_gpu or recipe.encoder.gpus_per_actor > 0 or recipe.llm.gpus_per_actor > 0
    detail = f"{torch.__version__}, {os.cpu_count()} CPUs, GPUs: {', '.join(devices) or 'none'}"
    if wants and not devices:
        return Check("torch", "warning", f"{detail}; the recipe asks for GPUs, which other nodes must have")
    return Check("torch", "ok", detail)


def _encoder(recipe: Recipe) -> Check:
    from pipeline.models import locate

    return Check("encoder", "ok", f"{recipe.encoder.model} ({locate(recipe.encoder.model).path_or_name})")


def _llm(recipe: Recipe) -> Check:
    from pipeline.llm.complete import check_engine

    check_engine(recipe.llm)
    return Check("llm", "ok", f"{recipe.llm.engine}: {recipe.llm.model}")


def _corpus(recipe: Recipe) -> Check:
    from pipeline.corpus.estimate import estimate

    expected = estimate(recipe, {})
    return Check("corpus", "ok", f"{recipe.corpus.path}: about {expected.rows:,} passages")


def _ray(recipe: Recipe) -> Check:
    from pipeline.ray_session import ensure_ray

    if importlib.util.find_spec("ray") is None:
        return Check("ray", "failed", "not installed")
    ensure_ray(recipe.ray)
    import ray

    resources = ray.cluster_resources()
    return Check(
        "ray", "ok", f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, {len(ray.nodes())} node(s)"
    )
