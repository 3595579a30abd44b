"""Tiny rerankers of random weights, saved as published ones are: without a scorer.json."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAIRS = [
    ("how do bees fly", "Bees beat their wings 230 times per second."),
    ("how do bees fly", ""),
    ("what is tea", "Tea is made from leaves. " * 8),
    ("what is tea", "Stones."),
    ("rain", "It rains where warm air rises and cools down, as it does over mountains."),
]


_QWEN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
NO_SYSTEM = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "[{{ message.role }}] {{ message.content }} {% endfor %}[answer] "
)


@pytest.fixture(scope="session")
def save_causal(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a Qwen3 whose tokens are bytes, 'yes', 'no' and the prompt's marks."""

    def save(chat_template: str | None = _QWEN) -> Path:
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

        folder = tmp_path_factory.mktemp("tiny-causal")
        specials = ["<pad>", "<|im_start|>", "<|im_end|>"]
        tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ye", "yes", "no"]
        vocabulary = {token: place for place, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("y", "e"), ("ye", "s"), ("n", "o")]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            eos_token="<|im_end|>",
            additional_special_tokens=["<|im_start|>"],
        )
        wrapped.chat_template = chat_template
        wrapped.save_pretrained(folder)
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=2048,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=vocabulary["<|im_end|>"],
            pad_token_id=vocabulary["<pad>"],
        )
        Qwen3ForCausalLM(config).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def tiny_causal(save_causal: Callable[..., Path]) -> Path:
    return save_causal()


@pytest.fixture(scope="session")
def tiny_cross_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One label, with weights large enough that its scores differ, as CrossEncoder saves it."""
    import torch
    from sentence_transformers import CrossEncoder

    folder = tmp_path_factory.mktemp("tiny-cross-encoder")
    torch.manual_seed(1)
    model = (
        CrossEncoder(str(tiny_encoder / "0_Transformer"), num_labels=1, device="cpu")
        if (tiny_encoder / "0_Transformer").is_dir()
        else CrossEncoder(str(tiny_encoder), num_labels=1, device="cpu")
    )
    torch.nn.init.normal_(model.model.classifier.weight)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


MODEL = "stages/rerank/0/1/model"
SHIPPED = {"reranker": {"verdict": "ship", "reason": "better.", "path": MODEL, "trained": MODEL}}


@pytest.fixture
def release(tmp_path: Path, tiny_cross_encoder: Path) -> Callable[[dict[str, Any]], Path]:
    """The workspace of a run that has trained a reranker, and said this of it."""

    def of(about: dict[str, Any]) -> Path:
        folder = tmp_path / "other run"
        model = folder / MODEL
        if not model.exists():
            shutil.copytree(tiny_cross_encoder, model)
        (folder / "release.json").write_text(json.dumps({"verdict": "ship", "chosen": "tuned", **about}))
        return folder

    return of
