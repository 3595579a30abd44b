"""Open a reranker: the recipe's model as published, or one that was saved here."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel

from pipeline.errors import RayrieverError
from pipeline.models import fetch, locate
from pipeline.recipe import ScorerSection
from pipeline.scorer import causal, encoder, t5
from pipeline.scorer.model import Contract, Kind, PairModel, read_contract
from pipeline.scorer.named import trained_reranker

_KINDS: dict[Kind, type[PairModel]] = {
    "t5": t5.T5PairModel,
    "causal": causal.CausalPairModel,
    "encoder": encoder.EncoderPairModel,
}
_LOADERS = {
    "t5": transformers.AutoModelForSeq2SeqLM,
    "causal": transformers.AutoModelForCausalLM,
    "encoder": transformers.AutoModelForSequenceClassification,
}
_PROMPTS = {"t5": t5.PROMPT, "causal": causal.PROMPT, "encoder": encoder.PROMPT}
_log = logging.getLogger(__name__)


def load_scorer_model(section: ScorerSection, folder: Path | None = None, seed: int | None = None) -> PairModel:
    """The reranker of `folder`, or the recipe's model; weights float32, on the CPU.

    What was saved here is read as it was trained: its scorer.json, not the section, decides kind, strategy, longest
    input and truncation. An encoder without a head gets one to be trained, drawn from `seed`. Where the model has
    fewer positions than `max_tokens`, its contract has their number. Raises RayrieverError when there is no such
    model, it is none that the section describes, or it has no head and there is no seed.
    """
    name = str(folder) if folder is not None else section.model
    place = folder or _opened(section.model)
    with _explained(name):
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        contract = read_contract(Path(place)) or _contract(section, name, kind_of(config, name))
        _check_strategy(contract, name)
        if seed is None:
            _check_head(config, contract.kind, name)
        module = _weights(place, config, contract.kind, seed or 0)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    _check_tokenizer(tokenizer, name)
    return _KINDS[contract.kind](module, tokenizer, _within_positions(contract, module, name))


def check_scorer(section: ScorerSection) -> None:
    """Raises RayrieverError, before any weights are loaded, when the recipe's model is not there or has no head."""
    place = _opened(section.model)
    with _explained(section.model):
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    _check_head(config, kind_of(config, section.model), section.model)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RayrieverError(
            f"scorer.model {name}: cannot be loaded ({error}). "
            "Give a Hugging Face folder with safetensors, or connect to the model hub."
        ) from error


def kind_of(config: PretrainedConfig, name: str) -> Kind:
    """By the architecture. Raises RayrieverError when it is none that scores pairs."""
    architecture = (config.architectures or [""])[0]
    if architecture in ("T5ForConditionalGeneration", "MT5ForConditionalGeneration"):
        return "t5"
    if architecture.endswith("ForCausalLM"):
        return "causal"
    if config.is_encoder_decoder or type(config) not in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise RayrieverError(
            f"scorer.model {name}: {architecture or type(config).__name__} cannot score a pair. "
            "Give a T5, a causal language model, an encoder, or a cross-encoder."
        )
    return "encoder"


def _opened(model: str) -> Path | str:
    place = fetch(locate(trained_reranker(model, "scorer.model")))
    if place.gguf_file is not None:
        raise RayrieverError(f"scorer.model {model}: GGUF weights cannot be scored. Give a folder with safetensors.")
    modules = Path(place.path_or_name, "modules.json")
    if not modules.is_file():
        return place.path_or_name
    # sentence-transformers may keep the transformer in a folder below
    return Path(place.path_or_name, json.loads(modules.read_text(encoding="utf-8"))[0]["path"])


def _contract(section: ScorerSection, name: str, kind: Kind) -> Contract:
    if section.kind not in ("auto", kind):
        raise RayrieverError(f"scorer.kind {section.kind}: scorer.model {name} is of kind {kind}. Set kind to auto.")
    return Contract(kind, section.strategy, section.max_tokens, section.truncation, _PROMPTS[kind])


def _headless(config: PretrainedConfig, kind: Kind) -> bool:
    return kind == "encoder" and not (config.architectures or [""])[0].endswith("ForSequenceClassification")


def _check_head(config: PretrainedConfig, kind: Kind, name: str) -> None:
    """Scores of a head that nobody has trained would put passages in any order."""
    if _headless(config, kind):
        raise RayrieverError(
            f"scorer.model {name}: an encoder without a head of a reranker cannot score. "
            "Name a cross-encoder, a T5, or the workspace of a run that has trained a reranker."
        )


def _check_strategy(contract: Contract, name: str) -> None:
    allowed = {"t5": ("difference", "softmax", "extra_id"), "causal": ("difference", "softmax")}
    if contract.strategy not in allowed.get(contract.kind, ("difference",)):
        raise RayrieverError(
            f"scorer.strategy {contract.strategy}: not for scorer.model {name}, which is of kind {contract.kind}. "
            "Set strategy to difference."
        )
    if contract.prompt != _PROMPTS[contract.kind]:
        raise RayrieverError(
            f"scorer.model {name}: was trained with prompt {contract.prompt!r}, which this version does not know. "
            "Use the version that trained it, or train it again."
        )


def _weights(place: Path | str, config: PretrainedConfig, kind: Kind, seed: int) -> PreTrainedModel:
    options: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": False, "use_safetensors": True}
    headless = _headless(config, kind)
    if headless:
        config.num_labels = 1
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, info = _LOADERS[kind].from_pretrained(place, config=config, output_loading_info=True, **options)
    missing = sorted(info["missing_keys"])
    if headless:
        base = f"{module.base_model_prefix}."
        missing = [key for key in missing if key.startswith(base) and not key.startswith(f"{base}pooler.")]
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, among them {missing[0]}")
    assert isinstance(module, PreTrainedModel)
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports every head that it had to make."""
    levels: Any = transformers.utils.logging
    before = levels.get_verbosity()
    levels.disable_progress_bar()
    levels.set_verbosity_error()
    try:
        yield
    finally:
        levels.set_verbosity(before)


def _check_tokenizer(tokenizer: Any, name: str) -> None:
    if not tokenizer.is_fast:
        raise RayrieverError(f"scorer.model {name}: has no fast tokenizer (tokenizer.json). Choose another model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise RayrieverError(f"scorer.model {name}: its tokenizer has no token to pad with. Choose another model.")


def _within_positions(contract: Contract, module: PreTrainedModel, name: str) -> Contract:
    """T5 has relative positions and no limit. A length that the tokenizer names is a habit, not a limit."""
    if contract.kind == "t5":
        return contract
    table = getattr(getattr(module.base_model, "embeddings", None), "position_embeddings", None)
    if isinstance(table, nn.Embedding):
        # RoBERTa counts from behind the padding position
        positions = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    else:
        positions = int(getattr(module.config, "max_position_embeddings", contract.max_tokens))
    if contract.max_tokens <= positions:
        return contract
    _log.warning(
        "scorer.max_tokens %d: scorer.model %s has %d positions, so pairs are cut to %d tokens.",
        contract.max_tokens,
        name,
        positions,
        positions,
    )
    return replace(contract, max_tokens=positions)
