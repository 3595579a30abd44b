"""The shortened last layer gives the scores of the whole one."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from pipeline.scorer.first_token import compute_first_token_only


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.inference_mode()
def test_scores_are_those_of_the_whole_layer(kind: str, attention: str) -> None:
    """A mask that is lost here lets passages attend to padding, in the last layer only and so barely visible."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=1,
        initializer_range=0.5,
        pad_token_id=0,
    )
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).eval()
    ids = torch.randint(3, 50, (3, 12))
    lengths = torch.tensor([[12], [7], [2]])
    mask = (torch.arange(12) < lengths).long()
    ids[mask == 0] = 0
    whole = [model(input_ids=ids, attention_mask=m).logits for m in (mask, torch.ones_like(mask))]
    compute_first_token_only(model)
    assert model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state.shape == (3, 1, 32)
    ours = [model(input_ids=ids, attention_mask=m).logits for m in (mask, torch.ones_like(mask))]
    torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole[0], whole[1], atol=1e-3)
