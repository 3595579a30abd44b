"""Opening a causal language model and its tokenizer, a GGUF file included.

A GGUF file is dequantised once per machine and kept as a Hugging Face folder under ~/.cache/rayriever: opened from
there SmolLM2-135M is ready in 1 s instead of 20, and every stage that asks the LLM opens it anew.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.llm.requests import Messages
from pipeline.models import ModelLocation, fetch

log = logging.getLogger(__name__)


def open_model(place: ModelLocation) -> tuple[Any, Any]:
    """The model, in bfloat16 on the CPU, and its tokenizer. Raises what transformers raises."""
    if place.gguf_file is None:
        return _open_folder(fetch(place).path_or_name)
    kept = _dequantised(place)
    if kept.is_dir():
        return _open_folder(str(kept))
    model, tokenizer = _open_gguf(fetch(place).path_or_name, place.gguf_file)
    try:
        _keep(model, tokenizer, kept)
    except OSError as error:
        if not kept.is_dir():  # unless another actor was quicker
            log.warning("%s cannot be written, so %s is dequantised again next time: %s", kept, place.gguf_file, error)
    return model, tokenizer


def open_tokenizer(place: ModelLocation, local_only: bool) -> Any:
    """The tokenizer alone, at once. Raises what transformers raises.

    Args:
        local_only: take what is on this machine, and download nothing.
    """
    import transformers

    kept = place.gguf_file and _dequantised(place)
    if kept and kept.is_dir():
        return transformers.AutoTokenizer.from_pretrained(str(kept), local_files_only=True)
    if local_only and place.is_stored and not place.kept().is_dir():
        raise FileNotFoundError(f"{place.path_or_name} has not been copied to this machine")
    name = fetch(place).path_or_name
    if place.gguf_file:
        return transformers.AutoTokenizer.from_pretrained(name, gguf_file=place.gguf_file)
    return transformers.AutoTokenizer.from_pretrained(name, local_files_only=local_only or _is_local(name))


def chat_tokens(tokenizer: Any, messages: Messages, template: Mapping[str, Any]) -> list[int]:
    """A conversation as the model reads it, up to where its answer begins. Raises what the template raises.

    Args:
        template: further arguments of the chat template.
    """
    conversation = [dict(message) for message in messages]
    text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True, **template)
    # the template has written the special tokens already
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _is_local(path_or_name: str) -> bool:
    return Path(path_or_name).is_absolute() or os.environ.get("HF_HUB_OFFLINE") == "1"


def _open_folder(path_or_name: str) -> tuple[Any, Any]:
    import torch
    import transformers

    is_local = _is_local(path_or_name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path_or_name, local_files_only=is_local)
    model: Any = transformers.AutoModelForCausalLM
    return model.from_pretrained(path_or_name, dtype=torch.bfloat16, local_files_only=is_local), tokenizer


def _open_gguf(folder: str, gguf_file: str) -> tuple[Any, Any]:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    dense = transformers.GgufConfig(dequantize=True)
    model: Any = transformers.AutoModelForCausalLM
    return (
        model.from_pretrained(folder, gguf_file=gguf_file, quantization_config=dense, dtype=torch.bfloat16),
        tokenizer,
    )


def _dequantised(place: ModelLocation) -> Path:
    import transformers

    return place.kept(f"{place.gguf_file}-transformers-{transformers.__version__}")


def _keep(model: Any, tokenizer: Any, folder: Path) -> None:
    """Whole or not at all: actors may do this at the same time, and die doing it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # its weights are dense now; saved with these, they would be read as quantised ones
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    temporary = tempfile.mkdtemp(dir=folder.parent, prefix=".converting-")
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
