"""Margin-MSE against the sum over pairs."""

import math
from itertools import combinations

import pytest
import torch

from pipeline.training.losses import margin_mse

NAN = math.nan


def by_pairs(scores: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
    """One row, as Hofstaetter et al. 2020 write it."""
    candidates = [column for column in range(len(scores)) if not grades[column].isnan()]
    squares = [((scores[i] - scores[j]) - (grades[i] - grades[j])).square() for i, j in combinations(candidates, 2)]
    return torch.stack(squares).mean()


def test_value_and_gradient_equal_the_mean_over_pairs_of_candidates():
    torch.manual_seed(0)
    scores, grades = torch.randn(3, 5, requires_grad=True), 3 * torch.randn(3, 5)
    grades[0, 1] = grades[2, 0] = grades[2, 3] = grades[2, 4] = NAN
    found = margin_mse(scores, grades)
    expected = torch.stack([by_pairs(scores[row], grades[row]) for row in range(3)])
    assert torch.allclose(found, expected, rtol=1e-5)
    gradients = [torch.autograd.grad(losses.sum(), scores)[0] for losses in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-5)
    assert (gradients[0][grades.isnan()] == 0).all()


def test_one_pair_is_the_squared_difference_of_margins():
    """Scores 3 apart, grades 1 apart the other way: (3 - -1)^2."""
    assert float(margin_mse(torch.tensor([[4.0, 9.0, 1.0]]), torch.tensor([[0.0, NAN, 1.0]]))) == pytest.approx(16)


def test_margins_count_and_levels_do_not():
    grades = torch.tensor([[2.0, 0.0, 1.0]])
    assert float(margin_mse(grades - 50, grades)) == pytest.approx(0, abs=1e-8)
    assert float(margin_mse(2 * grades, grades)) == pytest.approx((4 + 1 + 1) / 3)


def test_rows_with_fewer_than_two_candidates_are_zero_and_leave_the_others_alone():
    torch.manual_seed(0)
    scores = torch.randn(3, 3, requires_grad=True)
    grades = torch.tensor([[NAN, NAN, NAN], [NAN, 5.0, NAN], [1.0, 2.0, NAN]])
    losses = margin_mse(scores, grades)
    losses.sum().backward()
    assert losses[:2].tolist() == [0, 0]
    assert (scores.grad[:2] == 0).all()
    assert losses[2].item() == pytest.approx(by_pairs(scores[2], grades[2]).item())
    assert torch.isfinite(scores.grad).all()


def test_permuting_rows_and_columns_permutes_nothing_else():
    torch.manual_seed(0)
    scores, grades = torch.randn(3, 5), torch.randn(3, 5)
    grades[0, 1] = grades[2, 3] = NAN
    rows, columns = torch.tensor([2, 0, 1]), torch.randperm(5)
    moved = margin_mse(scores[rows][:, columns], grades[rows][:, columns])
    assert torch.allclose(moved, margin_mse(scores, grades)[rows], atol=1e-6)


def test_half_precision_scores_are_compared_in_float32():
    torch.manual_seed(0)
    scores, grades = torch.randn(1, 64).bfloat16(), torch.randn(1, 64, dtype=torch.float64)
    assert margin_mse(scores, grades).dtype == torch.float32
    assert torch.equal(margin_mse(scores, grades), margin_mse(scores.float(), grades))


def test_infinite_grade_is_refused_and_not_nan():
    with pytest.raises(ValueError, match="row 0 has an infinite grade"):
        margin_mse(torch.zeros(1, 2), torch.tensor([[-math.inf, 0.0]]))
