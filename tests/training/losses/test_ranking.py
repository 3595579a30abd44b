"""Losses on ordered lists against loops over pairs and places, and what padding and confidence may do."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.training.losses import adr_mse, lambda_loss, list_mle, mse, ranknet

NAN = math.nan
LENGTHS = [5, 1, 3, 2]
LISTED = torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)


def certain(listed: Tensor) -> Tensor:
    """Every listed column above the later ones, with confidence 1."""
    pairs = (listed.unsqueeze(1) & listed.unsqueeze(2)).float()
    return pairs.triu(1) - pairs.tril(-1)


# Every loss with the same arguments: scores and which columns are listed, best first.
LOSSES = {
    "ranknet": lambda scores, listed: ranknet(scores, certain(listed)),
    "lambda": lambda scores, listed: lambda_loss(scores, certain(listed), listed),
    "list_mle": list_mle,
    "adr_mse": adr_mse,
    "mse": lambda scores, listed: mse(scores, torch.arange(9.0, 0, -1)[: scores.shape[1]].where(listed, NAN)),
}
ALL = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
ON_ORDERS = pytest.mark.parametrize("loss", [LOSSES[name] for name in LOSSES if name != "mse"])


def random_scores() -> Tensor:
    torch.manual_seed(0)
    return (2 * torch.randn(4, 5)).requires_grad_()


def random_confidence() -> Tensor:
    """Antisymmetric, some pairs unknown and some against the order of the columns, padding 0."""
    torch.manual_seed(1)
    sure = (torch.rand(4, 5, 5) * 1.4 - 0.4).round(decimals=1) * certain(LISTED)
    return sure.triu(1) - sure.triu(1).transpose(1, 2)


def ordered_pairs(confidence: Tensor) -> list[tuple[int, int, float]]:
    size = len(confidence)
    every = [(i, j, float(confidence[i, j])) for i in range(size) for j in range(size)]
    return [pair for pair in every if pair[2] > 0]


def places(scores: list[float]) -> list[int]:
    order = sorted(range(len(scores)), key=lambda column: (-scores[column], column))
    return [order.index(column) + 1 for column in range(len(scores))]


def test_ranknet_equals_the_weighted_mean_over_pairs():
    """A mean over all places of the padded square would let short lists learn less than long ones."""
    scores, confidence = random_scores(), random_confidence()
    for row, loss in enumerate(ranknet(scores, confidence).tolist()):
        s, pairs = scores[row].tolist(), ordered_pairs(confidence[row])
        total = sum(weight for *_, weight in pairs) or 1
        expected = sum(weight * math.log(1 + math.exp(s[j] - s[i])) for i, j, weight in pairs) / total
        assert loss == pytest.approx(expected, rel=1e-5)
    assert any(i > j for i, j, _ in ordered_pairs(confidence[0]))


def test_lambda_loss_weighs_pairs_by_what_swapping_them_changes():
    scores, confidence = random_scores(), random_confidence()
    for row, loss in enumerate(lambda_loss(scores, confidence, LISTED).tolist()):
        s = scores[row, : LENGTHS[row]].tolist()

        def dcg(at: list[int]) -> float:
            """Gain 1 / teacher's place, discounted at the places given."""
            return sum(1 / (column + 1) / math.log2(1 + place) for column, place in enumerate(at))

        now, ideal, expected = places(s), dcg(list(range(1, len(s) + 1))), 0.0
        for i, j, weight in ordered_pairs(confidence[row]):
            swapped = [now[{i: j, j: i}.get(column, column)] for column in range(len(s))]
            change = abs(dcg(swapped) - dcg(now)) / ideal
            expected += weight * change * math.log(1 + math.exp(s[j] - s[i]))
        assert loss == pytest.approx(expected, rel=1e-4)


def test_lambda_gradient_holds_the_weights_constant():
    """Two passages in the wrong order: the pair weighs |1 - 1/2| |1 - 1/log2 3| / (1 + 1/2 / log2 3)."""
    scores = torch.tensor([[0.0, 1.0]], requires_grad=True)
    listed = torch.ones(1, 2, dtype=torch.bool)
    lambda_loss(scores, certain(listed), listed).sum().backward()
    weight = 0.5 * (1 - 1 / math.log2(3)) / (1 + 0.5 / math.log2(3))
    slope = weight / (1 + math.exp(-1))
    assert scores.grad.tolist()[0] == pytest.approx([-slope, slope], abs=1e-6)


def test_lambda_breaks_ties_in_the_teachers_order():
    """Equal scores must not make places, and with them weights, depend on how a sort treats ties."""
    listed, nearly = torch.ones(1, 100, dtype=torch.bool), torch.arange(0, -100, -1).unsqueeze(0) * 1e-6
    tied = lambda_loss(torch.zeros(1, 100), certain(listed), listed)
    assert tied.item() == pytest.approx(lambda_loss(nearly, certain(listed), listed).item(), rel=1e-3)


def test_list_mle_is_the_probability_of_the_order():
    scores = random_scores()
    for row, loss in enumerate(list_mle(scores, LISTED).tolist()):
        strengths = [math.exp(score) for score in scores[row, : LENGTHS[row]].tolist()]
        probability = math.prod(each / sum(strengths[place:]) for place, each in enumerate(strengths))
        assert loss == pytest.approx(-math.log(probability), abs=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_adr_mse_equals_the_written_formula(alpha: float):
    scores = random_scores()
    for row, loss in enumerate(adr_mse(scores, LISTED, alpha).tolist()):
        s, total = scores[row, : LENGTHS[row]].tolist(), 0.0
        for own, score in enumerate(s):
            others = s[:own] + s[own + 1 :]
            soft = 1 + sum(1 / (1 + math.exp((score - other) / alpha)) for other in others)
            total += (own + 1 - soft) ** 2 / math.log2(own + 2)
        assert loss == pytest.approx(total / len(s), rel=1e-4, abs=1e-6)


def test_mse_counts_the_passages_with_a_target_only():
    targets = torch.tensor([[1.0, NAN, 4.0], [NAN, NAN, NAN]])
    assert mse(torch.tensor([[3.0, 50.0, 3.0], [1.0, 2.0, 3.0]]), targets).tolist() == [2.5, 0]


@ALL
@pytest.mark.parametrize("padding", [0.0, 1e4, NAN, math.inf, -math.inf])
def test_padding_changes_no_value_and_no_gradient(loss, padding: float):
    alone = random_scores()
    single = torch.cat(
        [loss(alone[row : row + 1, :size], LISTED[row : row + 1, :size]) for row, size in enumerate(LENGTHS)]
    )
    expected = torch.autograd.grad(single.sum(), alone)[0]
    padded = alone.detach().masked_fill(~LISTED, padding).requires_grad_()
    together = loss(padded, LISTED)
    together.sum().backward()
    assert torch.allclose(together, single, atol=1e-5)
    assert torch.allclose(padded.grad, expected, atol=1e-5)
    assert (padded.grad[~LISTED] == 0).all()


@ON_ORDERS
def test_a_descent_step_lifts_the_better_passage(loss):
    """The sign that TWOLAR prints would train the teacher's order backwards."""
    scores = torch.zeros(2, 3, requires_grad=True)
    listed = torch.tensor([[True, True, True], [True, True, False]])
    before = loss(scores, listed)
    before.sum().backward()
    assert scores.grad[0, 0] < 0 < scores.grad[0, 2]
    assert scores.grad[1, 0] < 0 < scores.grad[1, 1]
    assert (loss(scores - 0.1 * scores.grad, listed) < before).all()


@pytest.mark.parametrize("loss", [ranknet, lambda scores, sure: lambda_loss(scores, sure, torch.ones(1, 4).bool())])
def test_pairs_pull_as_much_as_the_teacher_is_sure_of_them(loss):
    """Columns 0 and 1 are ordered for sure, 2 and 3 with confidence 0.2, between the two pairs nothing is known."""
    confidence = torch.zeros(1, 4, 4)
    confidence[0, 0, 1], confidence[0, 1, 0], confidence[0, 2, 3], confidence[0, 3, 2] = 1, -1, 0.2, -0.2
    scores = torch.zeros(1, 4, requires_grad=True)
    loss(scores, confidence).sum().backward()
    sure, unsure = scores.grad[0, :2], scores.grad[0, 2:]
    assert sure[0] == -sure[1] and unsure[0] == -unsure[1]
    if loss is ranknet:
        assert torch.allclose(unsure, sure / 5)
        assert torch.allclose(sure, torch.tensor([-0.5, 0.5]) / 1.2)
    whole = scores.grad.clone()
    scores.grad = None
    confidence[0, 2, 3], confidence[0, 3, 2] = 0, 0
    loss(scores, confidence).sum().backward()
    assert (scores.grad[0, 2:] == 0).all()
    assert (whole[0, 2:] != 0).all() and (scores.grad[0, :2] != 0).all()


def test_lambda_pair_of_confidence_a_fifth_pulls_a_fifth():
    listed = torch.ones(1, 3, dtype=torch.bool)
    scores = torch.tensor([[0.3, 0.1, 0.2]])
    sure = lambda_loss(scores, certain(listed), listed)
    assert torch.allclose(lambda_loss(scores, 0.2 * certain(listed), listed), sure / 5)


@ALL
def test_list_of_one_has_nothing_to_order(loss):
    scores = torch.tensor([[9.0, 3.0]], requires_grad=True)
    found = loss(scores, torch.tensor([[True, False]]))
    found.sum().backward()
    assert found.tolist() == [0]
    assert scores.grad.tolist() == [[0, 0]]


@pytest.mark.parametrize("name", ["ranknet", "lambda", "adr_mse", "mse"])
def test_row_without_passages_is_zero_and_not_nan(name: str):
    scores = torch.tensor([[1.0, 2.0], [1.0, 2.0]], requires_grad=True)
    losses = LOSSES[name](scores, torch.tensor([[False, False], [True, True]]))
    losses.sum().backward()
    assert losses[0] == 0 and losses[1] > 0
    assert (scores.grad[0] == 0).all() and torch.isfinite(scores.grad).all()


@ALL
@pytest.mark.parametrize("scores", [[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4], [1e4, 1e4, 1e4]])
def test_large_scores_do_not_overflow(loss, scores: list[float]):
    given = torch.tensor([scores], requires_grad=True)
    found = loss(given, torch.ones(1, 3, dtype=torch.bool))
    found.sum().backward()
    assert torch.isfinite(found).all() and torch.isfinite(given.grad).all()


@ALL
def test_half_precision_scores_are_compared_in_float32(loss):
    scores = random_scores().detach().bfloat16()
    assert loss(scores, LISTED).dtype == torch.float32
    assert torch.equal(loss(scores, LISTED), loss(scores.float(), LISTED))


def test_list_mle_refuses_rows_that_are_no_list():
    with pytest.raises(ValueError, match="row 1 orders no column"):
        list_mle(torch.zeros(2, 2), torch.tensor([[True, True], [False, False]]))
    with pytest.raises(ValueError, match="row 0 has -1 before a column"):
        list_mle(torch.zeros(1, 3), torch.tensor([[True, False, True]]))


def test_settings_without_a_meaning_are_refused():
    with pytest.raises(ValueError, match="alpha 0"):
        adr_mse(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), alpha=0)
    with pytest.raises(ValueError, match="row 0 has an infinite grade"):
        mse(torch.zeros(1, 2), torch.tensor([[1.0, math.inf]]))
