"""The gradient of a reranker's step: whatever the micro-batches, the budget of activations and the workers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.recipe import ScorerSection
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.model import PairModel
from pipeline.training.group import StepResult
from pipeline.training.list_step import ListStep, accumulate_list_gradient, scores_of
from pipeline.training.lists import ListExample, antisymmetric, collate, list_objective

LOSSES = ("ranknet", "lambda", "list_mle", "adr_mse", "margin_mse", "mse", "listwise_softmax")


def example(query: str, passages: Sequence[str], confidence: Sequence[float] | None = None) -> ListExample:
    count = len(passages)
    upper = np.ones(count * (count - 1) // 2, np.float32) if confidence is None else np.array(confidence, np.float32)
    scores = tuple(1 - place / count for place in range(count))
    return ListExample("q", query, tuple(passages), scores, antisymmetric(upper, count))


LISTS = [
    example("dough", ["bread rises", "a boat", "the longest of all of these passages by far"]),
    example("sail", ["wind", "x"]),
    example("alone", ["one passage"]),
    example("tide", ["moon", "sea", "oven", "salt"], [1, 0.2, 1, 0, 1, -0.5]),
]


@pytest.fixture(params=["t5", "encoder"])
def model(request: pytest.FixtureRequest, tiny_t5: Path, tiny_encoder: Path) -> PairModel:
    folder = tiny_t5 if request.param == "t5" else tiny_encoder
    return load_scorer_model(ScorerSection(model=str(folder), max_tokens=64), seed=0)


def gradient_of(
    model: PairModel,
    lists: Sequence[ListExample],
    loss: str = "ranknet",
    tokens: int = 64,
    kept: int | None = None,
    dropout: bool = False,
) -> tuple[dict[str, torch.Tensor], StepResult]:
    """Of the lists' share in a batch of as many rows as LISTS."""
    model.module.train(dropout)
    model.module.zero_grad()
    torch.manual_seed(0)
    step = ListStep(list_objective(loss, 10.0), tokens, kept)
    result = accumulate_list_gradient(model, collate(lists), len(LISTS), step)
    found = {n: p.grad.clone() for n, p in model.module.named_parameters() if p.grad is not None}
    return found, result


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_that_of_every_list_scored_by_itself(model: PairModel, loss: str):
    """Scores put at another list's places, or a padded place that counts, would train on somebody else's order."""
    found, result = gradient_of(model, LISTS, loss)
    model.module.zero_grad()
    total = torch.zeros(())
    for each in LISTS:
        pairs = [(each.query, passage) for passage in each.passages]
        scores = torch.cat([model.logits(model.tokenize([pair])) for pair in pairs])
        alone = collate([each])
        total = total + list_objective(loss, 10.0)(scores.unsqueeze(0), alone).sum() / len(LISTS)
    total.backward()
    assert result.loss == pytest.approx(float(total.detach()), rel=1e-4)
    assert_same(found, {n: p.grad for n, p in model.module.named_parameters() if p.grad is not None})


def test_passes_made_again_have_the_dropout_and_gradient_of_those_kept(model: PairModel):
    whole, value = gradient_of(model, LISTS, dropout=True)
    for kept in (0, 64, 100_000):
        found, again = gradient_of(model, LISTS, kept=kept, dropout=True)
        assert again.loss == pytest.approx(value.loss, rel=1e-5)
        assert_same(found, whole)


def test_shares_of_two_workers_add_up_to_the_step_of_one(model: PairModel):
    """A mean over a worker's own rows would weigh rows by how they happen to be divided."""
    whole, value = gradient_of(model, LISTS)
    first, one = gradient_of(model, LISTS[:1])
    second, other = gradient_of(model, LISTS[1:])
    assert one.loss + other.loss == pytest.approx(value.loss, rel=1e-5)
    assert_same({name: first[name] + second[name] for name in whole}, whole)


def test_a_share_of_lists_without_pairs_has_a_gradient_of_zero_and_not_none(model: PairModel):
    """Another worker would wait for the sum for ever."""
    found, result = gradient_of(model, [LISTS[2]])
    assert found and all(not value.any() for value in found.values()) and result.loss == 0


def test_the_share_of_pairs_in_order_is_counted_of_decided_pairs_alone(model: PairModel):
    _, result = gradient_of(model, LISTS)
    # 3 + 1 + 0 pairs, and of the last list five, one of them the other way round
    assert result.counts["pairs_in_order"] == 4 + 5
    assert 0 <= result.means["pairs_in_order"] <= 1


def test_drawn_passages_keep_the_teachers_order_and_confidence():
    """A draw that shuffles would teach a random order."""
    drawn = LISTS[3].drawn(3, "seed")
    places = [LISTS[3].passages.index(passage) for passage in drawn.passages]
    assert places == sorted(places) and len(places) == 3
    assert drawn.scores == tuple(LISTS[3].scores[place] for place in places)
    assert np.array_equal(drawn.confidence, LISTS[3].confidence[np.ix_(places, places)])
    assert LISTS[3].drawn(9, "seed") is LISTS[3]


def test_scores_in_training_are_those_of_inference_in_order(model: PairModel):
    """Sorted by length and not put back, dev would choose a checkpoint by noise."""
    pairs = [(each.query, passage) for each in LISTS for passage in each.passages]
    model.module.train()
    found = scores_of(model, pairs, ListStep(list_objective("ranknet", 1.0), 64))
    assert model.module.training
    model.module.train(False)
    expected = [float(model.logits(model.tokenize([pair])).detach()) for pair in pairs]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
