"""Weights of terms against the masked language model itself, one text at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sentence_transformers import SparseEncoder
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM

from pipeline.errors import RayrieverError
from pipeline.recipe import SparseSection
from pipeline.sparse.model import SparseModel, largest
from tests.sparse.conftest import NOTHING

TEXTS = ["red apple", "", "a longer text about wings, and about tails", "word " * 100, NOTHING, "red apple"]


def section(model: Path | str, **values: object) -> SparseSection:
    return SparseSection.model_validate({"model": str(model), "dtype": "float32", **values})


def by_hand(folder: Path, texts: list[str]) -> np.ndarray:
    """The maximum over positions of log(1 + relu(logit))."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        with torch.no_grad():
            logits = model(**tokenizer([text], truncation=True, return_tensors="pt")).logits[0]
        rows.append(torch.log1p(logits.relu()).amax(dim=0).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_plain_masked_model_is_pooled_as_splade_does(tiny_masked: Path, batch_size: int):
    """Padding that counts as a position, or rows left in the order of their lengths, would show here."""
    model = SparseModel(section(tiny_masked, batch_size=batch_size))
    expected = by_hand(tiny_masked, TEXTS)
    for found in (model.encode_queries(TEXTS), model.encode_passages(TEXTS)):
        assert found.dtype == np.float32 and found.shape == (6, 87) and (found.data > 0).all()
        assert np.allclose(found.toarray(), expected, atol=1e-4)
    assert 0 < np.count_nonzero(expected) < expected.size
    assert not expected[TEXTS.index(NOTHING)].any()


def test_folder_of_sentence_transformers_keeps_its_own_pooling_and_prompts(tiny_masked: Path, tmp_path: Path):
    theirs = SparseEncoder(str(tiny_masked), device="cpu", prompts={"query": "q: ", "document": "d: "})
    theirs[1].pooling_strategy = "sum"
    theirs.save(str(tmp_path), create_model_card=False)
    ours = SparseModel(section(tmp_path))
    assert np.allclose(ours.encode_queries(TEXTS).toarray(), theirs.encode_query(TEXTS).to_dense(), atol=1e-4)
    assert np.allclose(ours.encode_passages(TEXTS).toarray(), theirs.encode_document(TEXTS).to_dense(), atol=1e-4)
    assert not np.allclose(ours.encode_queries(TEXTS[:1]).toarray(), by_hand(tiny_masked, TEXTS[:1]), atol=1e-2)


def test_passages_keep_their_largest_weights_and_queries_all(tiny_masked: Path):
    whole, cut = SparseModel(section(tiny_masked)), SparseModel(section(tiny_masked, max_terms=5))
    everything, kept = whole.encode_passages(TEXTS).toarray(), cut.encode_passages(TEXTS).toarray()
    for row, left in zip(everything, kept, strict=True):
        assert np.count_nonzero(left) == min(5, np.count_nonzero(row))
        assert sorted(left[left > 0]) == sorted(row[row > 0])[-5:]
        assert (left[left > 0] == row[left > 0]).all()
    assert (cut.encode_queries(TEXTS) != whole.encode_queries(TEXTS)).nnz == 0
    assert np.count_nonzero(everything[0]) > 5


def test_equal_weights_are_cut_in_the_order_of_terms():
    """Which of equal weights is kept must not be up to a sort: a stage that runs again must give the same shards."""
    rows = sparse.csr_matrix(np.array([[1, 2, 1, 1], [0, 0, 3, 0], [0, 0, 0, 0]], dtype=np.float32))
    assert largest(rows, 2).toarray().tolist() == [[1, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0]]


def test_bfloat16_weighs_nearly_the_same(tiny_masked: Path):
    exact = SparseModel(section(tiny_masked)).encode_queries(TEXTS).toarray()
    rough = SparseModel(section(tiny_masked, dtype="bfloat16")).encode_queries(TEXTS).toarray()
    assert rough.dtype == np.float32
    cosine = (rough * exact).sum() / np.linalg.norm(rough) / np.linalg.norm(exact)
    assert 0.99 < cosine < 0.9999999


def test_no_texts_give_no_rows(tiny_masked: Path):
    assert SparseModel(section(tiny_masked)).encode_queries([]).shape == (0, 87)


def test_missing_model_is_named(tmp_path: Path):
    with pytest.raises(RayrieverError, match="absent"):
        SparseModel(section(tmp_path / "absent"))
    with pytest.raises(RayrieverError, match=r"sparse.model nobody/nothing: cannot be loaded"):
        SparseModel(section("nobody/nothing"))


def test_encoder_without_a_masked_head_is_refused(tiny_encoder: Path):
    """sentence-transformers would put a layer of random weights behind it and say nothing."""
    with pytest.raises(RayrieverError, match=r"sparse.model .*: is no masked language model"):
        SparseModel(section(tiny_encoder))


def test_pickled_weights_are_refused(tiny_masked: Path, tmp_path: Path):
    for file in tiny_masked.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(BertForMaskedLM.from_pretrained(tiny_masked).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(RayrieverError, match=r"sparse.model .*: cannot be loaded"):
        SparseModel(section(tmp_path))
