"""Tiny rerankers of random weights, saved as published ones are: without a scorer.json."""

import string
from collections.abc import Callable
from pathlib import Path

import pytest

_LETTERS = [*string.ascii_letters, *string.digits, *".,:?!-'<>|/"]
PAIRS = [
    ("how do bees fly", "Bees beat their wings 230 times per second."),
    ("how do bees fly", ""),
    ("what is tea", "Tea is made from leaves. " * 8),
    ("what is tea", "Stones."),
    ("rain", "It rains where warm air rises and cools down, as it does over mountains."),
]


@pytest.fixture(scope="session")
def save_t5(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a T5; `tied` as T5 1.0 has it (T5 1.1 and flan-t5 are untied), `words` that are single tokens."""

    def save(tied: bool = True, words: tuple[str, ...] = ("true", "false")) -> Path:
        import torch
        from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

        folder = tmp_path_factory.mktemp("tiny-t5")
        pieces = [f"▁{word}" for word in (*words, "Query", "Document", "Relevant")]
        vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
        vocabulary += [(piece, -5.0) for piece in pieces] + [(letter, -8.0) for letter in _LETTERS]
        tokenizer = T5Tokenizer(vocab=vocabulary)
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=len(tokenizer),
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            tie_word_embeddings=tied,
        )
        model = T5ForConditionalGeneration(config)
        if not tied:
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
        model.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def tiny_t5(save_t5: Callable[..., Path]) -> Path:
    return save_t5()


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
