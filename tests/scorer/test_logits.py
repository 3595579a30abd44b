"""Scores are those of the whole model, in float32."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from pipeline.errors import RayrieverError
from pipeline.recipe import ScorerSection
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.model import PairModel
from pipeline.scorer.score import Scorer
from pipeline.scorer.words import score_of
from tests.scorer.conftest import PAIRS


def _open(folder: Path, **fields: object) -> PairModel:
    return load_scorer_model(ScorerSection(model=str(folder), **fields), seed=0)


@pytest.mark.parametrize("tied", [True, False])
@torch.inference_mode()
def test_t5_scores_are_differences_of_the_full_logits(save_t5: Callable[..., Path], tied: bool) -> None:
    """Where embeddings are tied T5 scales the last state by d_model**-0.5; doing so for flan-t5 shrinks scores."""
    folder = save_t5(tied)
    model = _open(folder)
    full = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    true, false = model.tokenizer.convert_tokens_to_ids(["▁true", "▁false"])
    features = model.tokenize(PAIRS)
    logits = full(**features, decoder_input_ids=torch.zeros(len(PAIRS), 1, dtype=torch.long)).logits[:, 0]
    torch.testing.assert_close(model.logits(features), logits[:, true] - logits[:, false])
    assert model.logits(features).std() > 0.01


@torch.inference_mode()
def test_rankt5_scores_are_the_logit_of_extra_id_10(tiny_t5: Path) -> None:
    model = _open(tiny_t5, strategy="extra_id")
    full = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5, dtype=torch.float32).eval()
    features = model.tokenize(PAIRS)
    logits = full(**features, decoder_input_ids=torch.zeros(len(PAIRS), 1, dtype=torch.long)).logits[:, 0]
    torch.testing.assert_close(
        model.logits(features), logits[:, model.tokenizer.convert_tokens_to_ids("<extra_id_10>")]
    )


@torch.inference_mode()
def test_causal_scores_are_differences_of_the_full_logits_without_padding(tiny_causal: Path) -> None:
    """Padded on the wrong side, or with positions counted from the padding, the last token is another one."""
    model = _open(tiny_causal, max_tokens=1024)
    full = AutoModelForCausalLM.from_pretrained(tiny_causal, dtype=torch.float32).eval()
    yes, no = model.tokenizer.convert_tokens_to_ids(["yes", "no"])
    alone = [full(input_ids=model.tokenize([pair])["input_ids"]).logits[0, -1] for pair in PAIRS]
    expected = torch.stack([logits[yes] - logits[no] for logits in alone])
    torch.testing.assert_close(model.logits(model.tokenize(PAIRS)), expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_caps_its_logits_is_refused(tiny_causal: Path, tmp_path: Path) -> None:
    """Gemma 2 bends its logits after the output layer: rows of that layer alone rank otherwise."""
    from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        final_logit_softcapping=0.01,
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_causal).save_pretrained(tmp_path)
    with pytest.raises(RayrieverError, match="Gemma2ForCausalLM changes its logits"):
        _open(tmp_path)


@torch.inference_mode()
def test_encoder_scores_are_the_head_logit(tiny_cross_encoder: Path) -> None:
    model = _open(tiny_cross_encoder)
    full = AutoModelForSequenceClassification.from_pretrained(tiny_cross_encoder, dtype=torch.float32).eval()
    features = model.tokenize(PAIRS)
    torch.testing.assert_close(model.logits(features), full(**features).logits[:, 0])


@torch.inference_mode()
def test_of_two_labels_the_second_says_relevant(tiny_encoder: Path, tmp_path: Path) -> None:
    """monoBERT has two labels; read the wrong way round it would rank the worst passages first."""
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2).save_pretrained(tmp_path)
    _open(tiny_encoder).tokenizer.save_pretrained(tmp_path)
    model = _open(tmp_path)
    features = model.tokenize(PAIRS)
    probability = model.module(**features).logits.softmax(dim=1)[:, 1]
    torch.testing.assert_close(torch.sigmoid(model.logits(features)), probability)


@torch.inference_mode()
def test_the_sigmoid_of_the_difference_is_monot5s_probability(tiny_t5: Path) -> None:
    difference, softmax = _open(tiny_t5), _open(tiny_t5, strategy="softmax")
    features = difference.tokenize(PAIRS)
    probability = torch.sigmoid(difference.logits(features))
    torch.testing.assert_close(softmax.logits(features), probability.log())


def test_probabilities_near_one_do_not_tie() -> None:
    """log_softmax in float32 gives 0 for both; the passages would keep the first stage's order."""
    better, good = score_of(torch.tensor([[30.0, 0.0], [25.0, 0.0]]), "softmax").tolist()
    assert better > good
    assert good == pytest.approx(-math.exp(-25.0), rel=1e-3)


def test_heads_stay_float32_when_the_transformer_is_cast(tiny_t5: Path, tiny_cross_encoder: Path) -> None:
    """In bfloat16 logits near 16 lie 0.125 apart: passages would tie."""
    for folder in (tiny_t5, tiny_cross_encoder):
        exact, cast = _open(folder), _open(folder)
        scores = Scorer(cast, "bfloat16", 4096).score_pairs(PAIRS)
        assert next(cast.module.parameters()).dtype == torch.bfloat16
        assert scores.tolist() != torch.tensor(scores).bfloat16().tolist()
        expected = Scorer(exact, "float32", 4096).score_pairs(PAIRS)
        assert abs(scores - expected).max() < 0.05


@pytest.mark.parametrize("name", ["tiny_t5", "tiny_causal", "tiny_cross_encoder"])
def test_training_reaches_body_and_head_under_autocast(name: str, request: pytest.FixtureRequest) -> None:
    """A head read once and kept would never learn; one in bfloat16 would learn on rounded scores."""
    model = _open(request.getfixturevalue(name))
    model.module.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model.logits(model.tokenize(PAIRS))
    assert scores.dtype == torch.float32
    scores.square().sum().backward()
    head = model.module.classifier if model.kind == "encoder" else model.module.get_output_embeddings()
    for weight in (head.weight, next(model.module.parameters())):
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0
