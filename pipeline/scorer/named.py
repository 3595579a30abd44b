"""What a recipe may name as a reranker: a model, or the workspace of a run that has trained one."""

from __future__ import annotations

import json
from typing import Any

from pipeline.errors import RayrieverError
from pipeline.workspace import Workspace

RELEASE = "release.json"  # what the evaluation of a run leaves at the top of its workspace
_PATHS = ("./", "../", "/", "~", "s3://", "gs://")


def trained_reranker(named: str, key: str) -> str:
    """The model that a recipe names; of a workspace, the reranker of its run, whether it ships or not.

    Args:
        key: of the recipe, for errors.
    Raises RayrieverError for a workspace whose run has trained none.
    """
    about = _released(named, key)
    return named if about is None else f"{named.rstrip('/')}/{about['trained']}"


def shipped_reranker(named: str, key: str) -> str:
    """The same, of a run that ships its reranker. Raises RayrieverError also where it does not."""
    about = _released(named, key)
    if about is not None and not about["path"]:
        raise RayrieverError(
            f"{key} {named}: this run has shipped no reranker: {about['reason']} Name the folder of its model, "
            f"{about['trained']}, to be taught by it all the same."
        )
    return trained_reranker(named, key)


def _released(named: str, key: str) -> dict[str, Any] | None:
    """What a workspace says of its reranker; None where `named` is no workspace."""
    workspace = Workspace(named) if named.startswith(_PATHS) else None
    content = workspace.read_bytes(workspace.path(RELEASE)) if workspace is not None else None
    if content is None:
        return None
    about: dict[str, Any] | None = json.loads(content).get("reranker")
    if not about:
        raise RayrieverError(f"{key} {named}: this run has trained no reranker. Name another, or a model.")
    return about
