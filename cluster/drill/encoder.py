"""An encoder that means nothing, for what must be quick."""

from __future__ import annotations

import string
from pathlib import Path

_TOKENS = 64


def write_encoder(folder: Path, dimension: int = 32) -> None:
    """A sentence-transformers folder of seeded random weights: two layers; letters as tokens, 64 of them read."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast  # type: ignore[attr-defined]

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder.mkdir(parents=True, exist_ok=True)
    letters = string.ascii_lowercase + string.digits + ".,?:-"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokens = {token: number for number, token in enumerate(vocabulary)}
    BertTokenizerFast(vocab=tokens, model_max_length=_TOKENS).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=dimension,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * dimension,
        max_position_embeddings=_TOKENS,
    )
    BertModel(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    body = Transformer(str(folder), max_seq_length=_TOKENS)
    SentenceTransformer(modules=[body, Pooling(dimension), Normalize()], device="cpu").save(str(folder))
