"""Partial Plackett-Luce and Bradley-Terry against enumeration, and the invariants of Kim & Baek 2025, section 2.3."""

import math
from itertools import pairwise, permutations

import pytest
import torch
from torch.nn.functional import cross_entropy, softplus

from pipeline.training.losses import bradley_terry, infonce, partial_plackett_luce

BOTH = pytest.mark.parametrize("loss", [partial_plackett_luce, bradley_terry])


def random_scores(rows: int, columns: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(rows, columns, requires_grad=True)


def probability(scores: list[float], ranking: tuple[int, ...]) -> float:
    """Plackett-Luce: each place is won among all that are not placed yet."""
    left = [math.exp(scores[column]) for column in ranking]
    return math.prod(strength / sum(left[place:]) for place, strength in enumerate(left))


def ordered_rows(scores: torch.Tensor, orders: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The one row of scores against every order."""
    return scores.expand(len(orders), -1), torch.tensor(orders)


def test_depth_two_is_the_papers_loss_and_the_loser_leaves_the_second_sum_only():
    scores = random_scores(3, 6)
    order = torch.tensor([[0, 1], [3, 2], [4, 5]])
    first = cross_entropy(scores, order[:, 0], reduction="none")
    second = cross_entropy(scores.scatter(1, order[:, :1], -math.inf), order[:, 1], reduction="none")
    assert torch.allclose(partial_plackett_luce(scores, order), first + second, atol=1e-6)


def test_depth_one_is_infonce():
    scores = random_scores(3, 6)
    order = torch.tensor([[0], [3], [5]])
    ignore = torch.zeros(3, 6, dtype=torch.bool)
    ignore[1, 2] = True
    positive = torch.zeros_like(ignore).scatter(1, order, True)
    assert torch.allclose(partial_plackett_luce(scores, order, ignore), infonce(scores, positive, ignore), atol=1e-6)


def test_two_candidates_give_bradley_terry():
    scores = torch.tensor([[2.0, -1.0]])
    assert float(partial_plackett_luce(scores, torch.tensor([[0, 1]]))) == pytest.approx(math.log(1 + math.exp(-3)))
    assert float(partial_plackett_luce(scores, torch.tensor([[1, 0]]))) == pytest.approx(math.log(1 + math.exp(3)))
    assert bradley_terry(scores, torch.tensor([[1, 0]])).item() == pytest.approx(math.log(1 + math.exp(3)))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_partial_order_has_the_probability_of_all_rankings_it_heads(depth: int):
    scores = random_scores(1, 5).detach()
    orders = list(permutations(range(5), depth))
    losses = partial_plackett_luce(*ordered_rows(scores, orders)).tolist()
    for order, loss in zip(orders, losses, strict=True):
        rest = [column for column in range(5) if column not in order]
        expected = sum(probability(scores[0].tolist(), order + tail) for tail in permutations(rest))
        assert math.exp(-loss) == pytest.approx(expected, abs=1e-6)


def test_probabilities_of_all_ordered_pairs_sum_to_one_without_ignored_columns():
    scores = random_scores(1, 6).detach()
    everything = ordered_rows(scores, list(permutations(range(6), 2)))
    assert float((-partial_plackett_luce(*everything)).exp().sum()) == pytest.approx(1, abs=1e-5)
    kept = ordered_rows(scores, list(permutations((0, 1, 3, 4), 2)))
    ignore = torch.zeros_like(kept[0], dtype=torch.bool)
    ignore[:, [2, 5]] = True
    assert float((-partial_plackett_luce(*kept, ignore)).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_gradient_is_the_sum_of_softmax_minus_one_hot_over_ranks():
    """The loser of a pair is attracted by the second rank: repelling it too would undo stage 1."""
    scores = random_scores(1, 5)
    partial_plackett_luce(scores, torch.tensor([[2, 0]])).sum().backward()
    first = scores.detach().softmax(dim=1)
    second = scores.detach().scatter(1, torch.tensor([[2]]), -math.inf).softmax(dim=1)
    expected = first + second - torch.tensor([[1.0, 0, 1.0, 0, 0]])
    assert torch.allclose(scores.grad, expected, atol=1e-6)
    assert float(scores.grad.sum()) == pytest.approx(0, abs=1e-6)


def test_gradient_of_a_full_order_equals_a_finite_difference():
    """Nothing is left to compete with the last rank: a softmax over nothing must not leak a NaN."""
    scores, order = random_scores(1, 4), torch.tensor([[3, 1, 0, 2]])
    partial_plackett_luce(scores, order).sum().backward()
    for column in range(4):
        step = torch.zeros(1, 4)
        step[0, column] = 0.01
        rise = partial_plackett_luce(scores + step, order) - partial_plackett_luce(scores - step, order)
        assert rise.item() / 0.02 == pytest.approx(float(scores.grad[0, column]), abs=1e-3)


@BOTH
def test_ragged_orders_equal_rows_alone(loss):
    scores = random_scores(3, 4)
    orders = [[2, 0, 1, 3], [1], [3, 0]]
    padded = torch.tensor([order + [-1] * (5 - len(order)) for order in orders])
    together = loss(scores, padded)
    alone = torch.cat([loss(scores[row : row + 1], torch.tensor([order])) for row, order in enumerate(orders)])
    assert torch.allclose(together, alone, atol=1e-6)
    gradients = [torch.autograd.grad(losses.sum(), scores)[0] for losses in (together, alone)]
    assert torch.allclose(*gradients, atol=1e-6)
    assert torch.isfinite(gradients[0]).all()


def test_ignored_column_gets_no_gradient_and_changes_nothing():
    scores, order = random_scores(1, 5), torch.tensor([[0, 1]])
    ignore = torch.tensor([[False, False, True, False, False]])
    loss = partial_plackett_luce(scores, order, ignore)
    loss.sum().backward()
    assert scores.grad[0, 2] == 0
    assert torch.allclose(loss, partial_plackett_luce(scores[:, [0, 1, 3, 4]], order))


@BOTH
def test_permuting_rows_and_columns_permutes_nothing_else(loss):
    scores = random_scores(3, 6)
    order = torch.tensor([[0, 1, 2], [3, 2, -1], [5, 4, 0]])
    rows, columns = torch.tensor([2, 0, 1]), torch.randperm(6)
    place = columns.argsort()
    moved_order = torch.where(order < 0, order, place[order.clamp(min=0)])
    moved = loss(scores[rows][:, columns], moved_order[rows])
    assert torch.allclose(moved, loss(scores, order)[rows], atol=1e-6)


def test_bradley_terry_averages_over_pairs_and_ignores_the_batch():
    scores = random_scores(1, 5)
    order = [3, 0, 4]
    loss = bradley_terry(scores, torch.tensor([order]))
    pairs = [(3, 0), (3, 4), (0, 4)]
    expected = sum(math.log(1 + math.exp((scores[0, j] - scores[0, i]).item())) for i, j in pairs) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.sum().backward()
    assert (scores.grad[0, [1, 2]] == 0).all()
    assert scores.grad[0, 3] < 0 < scores.grad[0, 4]


def test_bradley_terry_of_a_single_column_is_zero_and_not_nan():
    scores = random_scores(2, 3)
    losses = bradley_terry(scores, torch.tensor([[1, -1], [0, 2]]))
    losses.sum().backward()
    assert losses[0].item() == 0
    assert (scores.grad[0] == 0).all()
    assert torch.allclose(losses[1], softplus(scores[1, 2] - scores[1, 0]))


@BOTH
def test_large_scores_do_not_overflow(loss):
    scores = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    found = loss(scores, torch.tensor([[0, 1]]))
    found.sum().backward()
    assert found.item() == pytest.approx(400, abs=1e-3)
    assert torch.isfinite(scores.grad).all()


@BOTH
def test_half_precision_scores_are_compared_in_float32(loss):
    scores, order = random_scores(1, 64).detach().bfloat16(), torch.tensor([[0, 1]])
    assert loss(scores, order).dtype == torch.float32
    assert torch.equal(loss(scores, order), loss(scores.float(), order))


@BOTH
@pytest.mark.parametrize(
    ("order", "complaint"),
    [
        ([-1, -1], "row 1 orders no column"),
        ([-1, 0], "row 1 has -1 before a column"),
        ([2, 2], "row 1 orders a column twice"),
        ([0, 3], "row 1 orders a column that is not there"),
        ([0, -2], "row 1 orders a column that is not there"),
    ],
)
def test_order_that_is_none_is_refused(loss, order: list[int], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        loss(torch.zeros(2, 3), torch.tensor([[0, 1], order]))


def test_ordered_column_that_is_ignored_is_refused():
    ignore = torch.tensor([[False, True, False]])
    with pytest.raises(ValueError, match="row 0 orders a column that is ignored"):
        partial_plackett_luce(torch.zeros(1, 3), torch.tensor([[0, 1]]), ignore)


def test_a_better_ranking_costs_less():
    """An order read backwards trains the opposite of what the LLM said."""
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    for loss in (partial_plackett_luce, bradley_terry):
        worse = [float(loss(scores, torch.tensor([order]))) for order in ([0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0])]
        assert all(better < than for better, than in pairwise(worse))
