"""Our vectors against SentenceTransformer.encode."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from pipeline.encoder.batches import token_batches
from pipeline.encoder.encode import Encoder
from pipeline.encoder.model import load_model, save_model
from pipeline.errors import RayrieverError
from pipeline.recipe import EncoderSection

TEXTS = ["short", "", "a text of medium length about wings", "word " * 400, "naïve café 東京", "short"] * 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_equal_those_of_sentence_transformers(dtype: str, minilm: str):
    """Wrong order after sorting by length, lost padding or another truncation would all show here."""
    expected = SentenceTransformer(minilm, device="cpu").encode(TEXTS, normalize_embeddings=True)
    found = Encoder(load_model(EncoderSection(model=minilm)), dtype, 512).encode_passages(TEXTS)
    assert found.dtype == np.float32
    assert (found * expected).sum(axis=1).min() > (0.999999 if dtype == "float32" else 0.999)


def test_prompts_are_saved_with_the_model_and_used_by_everyone(tiny_encoder: Path, tmp_path: Path):
    section = EncoderSection(model=str(tiny_encoder), query_prompt="query: ", passage_prompt="passage: ", max_tokens=16)
    save_model(load_model(section), tmp_path / "saved")
    ours = Encoder(load_model(section, tmp_path / "saved"), "float32", 512)
    theirs = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert theirs.max_seq_length == 16
    for encode, reference in (
        (ours.encode_queries, theirs.encode_query),
        (ours.encode_passages, theirs.encode_document),
    ):
        expected = reference(["red apple"], normalize_embeddings=True)
        assert np.allclose(encode(["red apple"]), expected, atol=1e-5)
    assert not np.allclose(ours.encode_queries(["red apple"]), ours.encode_passages(["red apple"]), atol=1e-3)


def test_saved_folder_holds_no_pickle(tiny_encoder: Path, tmp_path: Path):
    save_model(load_model(EncoderSection(model=str(tiny_encoder))), tmp_path)
    assert list(tmp_path.rglob("*.safetensors"))
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_batches_respect_the_token_budget_and_lose_no_row():
    lengths = torch.tensor([3, 9, 1, 4, 4, 9, 2])
    mask = (torch.arange(9) < lengths.unsqueeze(1)).long()
    features = {"attention_mask": mask, "input_ids": mask * torch.arange(1, 8).unsqueeze(1), "prompt_length": 2}
    seen = []
    for rows, batch in token_batches(features, tokens_per_batch=12):
        assert batch["input_ids"].numel() <= 12 or len(rows) == 1
        assert batch["input_ids"].shape[1] == lengths[rows].max()
        assert (batch["input_ids"].max(dim=1).values == rows + 1).all()
        assert batch["prompt_length"] == 2
        seen += rows.tolist()
    assert sorted(seen) == list(range(7))


def test_left_padding_is_trimmed_on_the_left():
    features = {
        "attention_mask": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]]),
        "input_ids": torch.tensor([[0, 0, 5, 6], [0, 7, 8, 9]]),
    }
    _, batch = next(token_batches(features, 100))
    assert batch["input_ids"].tolist() == [[7, 8, 9], [0, 5, 6]]


def test_missing_model_is_named(tmp_path: Path):
    with pytest.raises(RayrieverError, match="absent"):
        load_model(EncoderSection(model=str(tmp_path / "absent")))
