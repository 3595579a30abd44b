"""A masked language model of random weights."""

import string
from pathlib import Path

import pytest

NOTHING = "zzz"  # no term of the model's weighs anything for this text


@pytest.fixture(scope="session")
def tiny_masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, 32 dimensions, letters and pairs as tokens; a text has some of them."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-masked")
    letters = string.ascii_lowercase + string.digits + ".,?:-"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    model = BertForMaskedLM(config).eval()
    with torch.no_grad():
        highest = model(**tokenizer([NOTHING], return_tensors="pt")).logits[0].amax(dim=0)
        model.cls.predictions.bias -= highest + 0.01
    model.save_pretrained(folder)
    return folder
