"""The losses against brute force, and the invariants of Kim & Baek 2025, section 2.2."""

import math

import pytest
import torch

from pipeline.training.losses import LOSSES, soft_nn, supcon


def masks(rows: int, columns: int, positive: dict[int, list[int]], ignore: dict[int, list[int]] | None = None):
    good, skip = torch.zeros(rows, columns, dtype=torch.bool), torch.zeros(rows, columns, dtype=torch.bool)
    for row, places in positive.items():
        good[row, places] = True
    for row, places in (ignore or {}).items():
        skip[row, places] = True
    return good, skip


def paper_layout(batch: int) -> torch.Tensor:
    """Columns p_i, p+_i, cot_i, p-_i of each row; the first three attract."""
    positive = torch.zeros(batch, 4 * batch, dtype=torch.bool)
    for row in range(batch):
        positive[row, 4 * row : 4 * row + 3] = True
    return positive


def test_soft_nn_equals_the_written_formula():
    torch.manual_seed(0)
    scores = torch.randn(3, 12)
    positive, none = paper_layout(3), torch.zeros(3, 12, dtype=torch.bool)
    for row, loss in enumerate(soft_nn(scores, positive, none)):
        top = sum(math.exp(scores[row, column]) for column in range(12) if positive[row, column])
        bottom = sum(math.exp(scores[row, column]) for column in range(12))
        assert float(loss) == pytest.approx(-math.log(top / bottom), abs=1e-5)


def test_supcon_equals_the_mean_of_single_positive_losses():
    torch.manual_seed(0)
    scores = torch.randn(2, 8)
    positive, none = paper_layout(2), torch.zeros(2, 8, dtype=torch.bool)
    for row, loss in enumerate(supcon(scores, positive, none)):
        bottom = math.log(sum(math.exp(s) for s in scores[row]))
        singles = [bottom - float(scores[row, column]) for column in range(8) if positive[row, column]]
        assert float(loss) == pytest.approx(sum(singles) / 3, abs=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_one_positive_is_cross_entropy(name: str):
    torch.manual_seed(0)
    scores = torch.randn(4, 16)
    positive, none = masks(4, 16, {row: [4 * row] for row in range(4)})
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(4) * 4, reduction="none")
    assert torch.allclose(LOSSES[name](scores, positive, none), expected, atol=1e-6)


def test_gradient_attracts_own_positives_and_repels_the_rest():
    torch.manual_seed(0)
    scores = torch.randn(3, 12, requires_grad=True)
    positive = paper_layout(3)
    soft_nn(scores, positive, torch.zeros_like(positive)).sum().backward()
    assert (scores.grad[positive] < 0).all()
    assert (scores.grad[~positive] > 0).all()
    assert torch.allclose(scores.grad.sum(dim=1), torch.zeros(3), atol=1e-6)


def test_relabelled_positive_repels_instead_of_attracting():
    """Clearing the mask bit must flip the gradient; forgetting it trains the encoder towards hallucinations."""
    torch.manual_seed(0)
    scores = torch.randn(3, 12, requires_grad=True)
    positive = paper_layout(3)
    kept = soft_nn(scores, positive, torch.zeros_like(positive))
    positive[0, 1] = False
    relabelled = soft_nn(scores, positive, torch.zeros_like(positive))
    relabelled.sum().backward()
    assert scores.grad[0, 1] > 0
    assert relabelled[0] >= kept[0]


def test_ignored_column_gets_no_gradient_and_changes_nothing():
    torch.manual_seed(0)
    scores = torch.randn(1, 4, requires_grad=True)
    positive, ignore = masks(1, 4, {0: [0]}, {0: [2]})
    loss = soft_nn(scores, positive, ignore)
    loss.sum().backward()
    assert scores.grad[0, 2] == 0
    without = soft_nn(scores[:, [0, 1, 3]], *masks(1, 3, {0: [0]}))
    assert torch.allclose(loss, without)


def test_large_scores_do_not_overflow():
    """At temperature 0.05 similarities reach 20; at 0.005, 200."""
    scores = torch.tensor([[200.0, -200.0, 199.0]])
    assert torch.isfinite(soft_nn(scores, *masks(1, 3, {0: [0]}))).all()


@pytest.mark.parametrize("loss", [soft_nn, supcon])
def test_row_without_positive_is_refused_and_not_infinite(loss):
    with pytest.raises(ValueError, match="no positive"):
        loss(torch.zeros(2, 3), *masks(2, 3, {0: [0]}))


def test_ignored_positive_is_refused():
    with pytest.raises(ValueError, match="ignored"):
        soft_nn(torch.zeros(1, 3), *masks(1, 3, {0: [0]}, {0: [0]}))
