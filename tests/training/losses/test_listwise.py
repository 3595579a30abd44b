"""Listwise cross-entropy against brute force and torch's own KL divergence."""

import math

import pytest
import torch

from pipeline.training.losses import listwise_cross_entropy

NAN = math.nan


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def test_equals_the_written_formula_over_candidates_only():
    """A batch column in either softmax would teach that the batch beats the candidates, or the reverse."""
    scores = torch.tensor([[0.5, 9.0, -1.0, 2.0], [1.0, 0.0, 3.0, 7.0]])
    grades = torch.tensor([[3.0, NAN, 1.0, 2.0], [0.0, 4.0, NAN, NAN]])
    losses = listwise_cross_entropy(scores, grades, temperature=2.0).tolist()
    for loss, given, wanted in zip(losses, ([0.5, -1.0, 2.0], [1.0, 0.0]), ([1.5, 0.5, 1.0], [0.0, 2.0]), strict=True):
        teacher, student = softmax(wanted), softmax(given)
        assert loss == pytest.approx(-sum(t * math.log(s) for t, s in zip(teacher, student, strict=True)), abs=1e-5)


def test_gradient_is_that_of_the_kl_divergence():
    torch.manual_seed(0)
    scores, grades = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)
    found = torch.autograd.grad(listwise_cross_entropy(scores, grades, 0.5).sum(), scores)[0]
    divergence = torch.nn.functional.kl_div(scores.log_softmax(1), (grades / 0.5).softmax(1), reduction="sum")
    assert torch.allclose(found, torch.autograd.grad(divergence, scores)[0], atol=1e-6)


def test_student_that_agrees_gets_no_gradient():
    grades = torch.tensor([[2.0, 0.0, 1.0]])
    scores = (grades / 0.5 + 7).requires_grad_()
    listwise_cross_entropy(scores, grades, temperature=0.5).sum().backward()
    assert torch.allclose(scores.grad, torch.zeros(1, 3), atol=1e-6)


def test_low_temperature_sharpens_the_teacher_and_not_the_student():
    scores, grades = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.0, 0.0, -1.0]])
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([0]))
    assert float(listwise_cross_entropy(scores, grades, temperature=0.01)) == pytest.approx(float(expected), abs=1e-5)


def test_columns_that_are_no_candidates_get_no_gradient():
    torch.manual_seed(0)
    scores = torch.randn(2, 4, requires_grad=True)
    grades = torch.tensor([[3.0, NAN, 1.0, NAN], [NAN, 0.0, 1.0, 2.0]])
    listwise_cross_entropy(scores, grades, 1.0).sum().backward()
    assert (scores.grad[grades.isnan()] == 0).all()
    assert (scores.grad[~grades.isnan()] != 0).all()
    assert torch.allclose(scores.grad.sum(dim=1), torch.zeros(2), atol=1e-6)


def test_rows_with_fewer_than_two_candidates_are_zero_and_leave_the_others_alone():
    """A softmax over nothing is NaN, and one NaN in the mean ruins every weight."""
    torch.manual_seed(0)
    scores = torch.randn(3, 3, requires_grad=True)
    grades = torch.tensor([[NAN, NAN, NAN], [NAN, 5.0, NAN], [1.0, 2.0, NAN]])
    losses = listwise_cross_entropy(scores, grades, 1.0)
    losses.sum().backward()
    assert losses[:2].tolist() == [0, 0]
    assert (scores.grad[:2] == 0).all()
    assert torch.equal(losses[2:], listwise_cross_entropy(scores[2:], grades[2:], 1.0))
    assert torch.isfinite(scores.grad).all() and (scores.grad[2, :2] != 0).all()


def test_permuting_rows_and_columns_permutes_nothing_else():
    torch.manual_seed(0)
    scores, grades = torch.randn(3, 5), torch.randn(3, 5)
    grades[0, 1] = grades[2, 3] = NAN
    rows, columns = torch.tensor([2, 0, 1]), torch.randperm(5)
    moved = listwise_cross_entropy(scores[rows][:, columns], grades[rows][:, columns], 1.0)
    assert torch.allclose(moved, listwise_cross_entropy(scores, grades, 1.0)[rows], atol=1e-6)


def test_large_scores_and_grades_do_not_overflow():
    scores = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    loss = listwise_cross_entropy(scores, torch.tensor([[0.0, 500.0, 0.0]]), 0.1)
    loss.sum().backward()
    assert loss.item() == pytest.approx(400, abs=1e-3)
    assert torch.isfinite(scores.grad).all()


def test_half_precision_scores_are_compared_in_float32():
    torch.manual_seed(0)
    scores, grades = torch.randn(1, 64).bfloat16(), torch.randn(1, 64, dtype=torch.float64)
    loss = listwise_cross_entropy(scores, grades, 1.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, listwise_cross_entropy(scores.float(), grades, 1.0))


def test_infinite_grade_is_refused_and_not_nan():
    """A strength fitted to a passage that won every comparison has no finite maximum."""
    with pytest.raises(ValueError, match="row 1 has an infinite grade"):
        listwise_cross_entropy(torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [math.inf, 0.0]]), 1.0)
