"""The weights in training: which of them learn, where they lie, and how they are saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from pipeline.encoder.model import save_model
from pipeline.errors import RayrieverError
from pipeline.recipe import EncoderTrainingSection, TrainingSection
from pipeline.training.bi_encoder import BiEncoder

_WEIGHTS, _OPTIMIZER = "trained.safetensors", "optimizer.pt"
# Makes an untrained encoder, to put spread or adapted weights into.
Blank = Callable[[], SentenceTransformer]

# Where the trained folder lies inside a checkpoint.
MODEL = "model"


def prepare(encoder: SentenceTransformer, section: EncoderTrainingSection, device: torch.device) -> BiEncoder:
    """The encoder with its adapters, on its device, spread over the workers where the recipe asks for it."""
    if section.lora_rank is not None:
        _add_adapters(encoder, section.lora_rank)
    if section.gradient_checkpointing:
        encoder.gradient_checkpointing_enable({"use_reentrant": False})
    encoder.to(device)
    model = BiEncoder(encoder, section.tokens_per_batch, section.dtype, section.max_tokens, section.sharded)
    _freeze_unused(model)
    if section.sharded:
        _shard(encoder)
    encoder.train()
    return model


def optimizer(
    parameters: Sequence[torch.nn.Parameter], section: TrainingSection, fused: bool = True
) -> torch.optim.AdamW:
    """AdamW; biases and the scales of normalisations do not decay."""
    decaying = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decaying, "weight_decay": section.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=section.learning_rate, fused=fused)


def save(model: BiEncoder, steps: torch.optim.Optimizer, blank: Blank, folder: Path | None) -> None:
    """Write what `restore` reads, and the encoder as it would be released.

    Every worker must call it where weights are spread; those without a `folder` write nothing.
    """
    weights = save_state(model.encoder, steps, folder)
    if folder is not None:
        save_model(_released(model, weights, blank), folder / MODEL)


def save_state(module: torch.nn.Module, steps: torch.optim.Optimizer, folder: Path | None) -> dict[str, Any]:
    """Write what `restore` reads, and return every weight of the module, on the CPU."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = dict(get_model_state_dict(module, options=options))
    moments = get_optimizer_state_dict(module, steps, options=options)
    if folder is not None:
        learning = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        kept = {name: value.contiguous() for name, value in weights.items() if name in learning}
        save_file(kept, str(folder / _WEIGHTS))
        torch.save(moments, folder / _OPTIMIZER)
    return weights


def restore(module: torch.nn.Module, steps: torch.optim.Optimizer, folder: Path) -> None:
    """Continue from a checkpoint: weights and moments as they were, to the bit."""
    options = StateDictOptions(full_state_dict=True, strict=False)
    weights: dict[str, Any] = dict(load_file(str(folder / _WEIGHTS)))
    set_model_state_dict(module, weights, options=options)
    moments = torch.load(folder / _OPTIMIZER, weights_only=True)
    set_optimizer_state_dict(module, steps, moments, options=StateDictOptions(full_state_dict=True))


def _released(model: BiEncoder, weights: dict[str, Any], blank: Blank) -> SentenceTransformer:
    whole = model.encoder
    adapters = _adapters(model.encoder)
    if model.sharded:
        whole = blank()
        if adapters is not None:
            whole.add_adapter(adapters)
        whole.load_state_dict(weights)
    if adapters is None:
        return whole
    plain = blank()
    plain.load_state_dict(_merged(whole))
    return plain


def _add_adapters(encoder: SentenceTransformer, rank: int) -> None:
    """Low-rank adapters on every linear layer (Hu et al. 2022), scaled by 2."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise RayrieverError("lora_rank needs peft: pip install 'rayriever[lora]'.") from error
    encoder.add_adapter(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", lora_dropout=0.0))


def _adapters(encoder: SentenceTransformer) -> Any:
    """Their configuration; None where every weight learns."""
    inner: Any = encoder[0]
    return getattr(inner.auto_model, "peft_config", {}).get("default")


def _merged(encoder: SentenceTransformer) -> dict[str, Any]:
    """Weights of the plain encoder: W + scale * B A in place of each adapted layer."""
    merged = {}
    for name, value in encoder.state_dict().items():
        if "lora_" in name:
            continue
        plain = name.replace(".base_layer", "")
        if name != plain and name.endswith(".weight"):
            layer: Any = encoder.get_submodule(name.removesuffix(".base_layer.weight"))
            value = value + layer.get_delta_weight("default")
        merged[plain] = value.detach().cpu()
    return merged


def _freeze_unused(model: BiEncoder) -> None:
    """Stop gradients of weights that the pooling never reads (BERT's own pooler): they would only decay."""
    model.embed(next(iter(model.micro_batches([], ["a"])))).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in model.encoder.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
        parameter.grad = None


def _shard(encoder: SentenceTransformer) -> None:
    from torch.distributed.fsdp import fully_shard

    lists = [module for module in encoder.modules() if isinstance(module, torch.nn.ModuleList)]
    # Inner lists first: a layer takes what is not spread yet.
    for layer in [layer for layers in reversed(lists) for layer in layers] + [encoder]:
        spread: Any = fully_shard(layer)
        # Workers' gradients are parts of one mean: their sum is wanted, of every layer.
        spread.set_gradient_divide_factor(1.0)
        spread.set_force_sum_reduction_for_comms(True)
