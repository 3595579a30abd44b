"""Load and save the one model configuration that training, mining, evaluation and serving share.

Prompts, pooling, longest input and normalisation live in the sentence-transformers folder and nowhere else.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize

from pipeline.artifact import Artifact
from pipeline.encoder.side import PASSAGE, QUERY
from pipeline.errors import RayrieverError
from pipeline.models import fetch, locate
from pipeline.recipe import EncoderSection
from pipeline.workspace import Workspace


def load_model(section: EncoderSection, folder: Path | None = None) -> SentenceTransformer:
    """The encoder of `folder`, or the recipe's base model with the recipe's prompts and limits.

    Weights are float32. Raises RayrieverError when there is no such model.
    """
    if folder is not None:
        return _open(str(folder))
    model = _open(fetch(locate(section.model)).path_or_name)
    if not any(isinstance(module, Normalize) for module in model):
        # We search by cosine: whoever loads the saved folder must get unit vectors, too.
        model.append(Normalize())
    if section.query_prompt is not None:
        model.prompts[QUERY] = section.query_prompt
    if section.passage_prompt is not None:
        model.prompts[PASSAGE] = section.passage_prompt
    if section.max_tokens is not None:
        model.max_seq_length = section.max_tokens
    return model


def trained_folder(workspace: str, trained_by: tuple[str, str] | None) -> Path | None:
    """Folder, on this machine, of the model that a finished stage `(name, key)` trained; None for the base model."""
    if trained_by is None:
        return None
    artifact = Artifact.find(Workspace(workspace), *trained_by)
    if artifact is None:
        raise RayrieverError(f"{trained_by[0]}: no finished model under key {trained_by[1]}.")
    return artifact.directory("model")


def save_model(model: SentenceTransformer, folder: Path) -> None:
    """Write a folder (safetensors) that `SentenceTransformer(folder)` loads with the same vectors."""
    model.save(str(folder), create_model_card=False, safe_serialization=True)


def _open(path_or_name: str) -> SentenceTransformer:
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return SentenceTransformer(path_or_name, trust_remote_code=False, device="cpu").float()
    except (OSError, ValueError) as error:
        raise RayrieverError(
            f"encoder.model {path_or_name}: cannot be loaded ({error}). "
            "Give a sentence-transformers folder, or connect to the model hub."
        ) from error


def best_device(gpus: float) -> torch.device:
    """CUDA when GPUs were reserved. Raises RayrieverError when they were but torch sees none."""
    if gpus <= 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RayrieverError("a GPU was reserved, but this torch build or machine has no CUDA device.")
    return torch.device("cuda")
