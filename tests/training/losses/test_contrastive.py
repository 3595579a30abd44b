"""Contrastive losses against brute force, and the invariants of Kim & Baek 2025, section 2.2."""

import math

import pytest
import torch

from pipeline.training.losses import infonce, soft_nn, supcon

ALL = pytest.mark.parametrize("loss", [soft_nn, supcon, infonce])


def mask(rows: int, columns: int, true: dict[int, list[int]]) -> torch.Tensor:
    filled = torch.zeros(rows, columns, dtype=torch.bool)
    for row, places in true.items():
        filled[row, places] = True
    return filled


def paper_layout(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns p_i, p+_i, cot_i, p-_i of each row, the first three positive; nothing ignored."""
    positive = mask(batch, 4 * batch, {row: [4 * row, 4 * row + 1, 4 * row + 2] for row in range(batch)})
    return positive, torch.zeros_like(positive)


def random_scores(rows: int, columns: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(rows, columns, requires_grad=True)


def written_supcon(scores: list[float], positives: dict[int, float], ignored: tuple[int, ...] = ()) -> float:
    """The formula for one row; `positives` maps a column to its weight."""
    total = sum(math.exp(score) for column, score in enumerate(scores) if column not in ignored)
    terms = [-weight * math.log(math.exp(scores[column]) / total) for column, weight in positives.items()]
    return sum(terms) / sum(positives.values())


def test_soft_nn_sums_positives_inside_the_log():
    scores = random_scores(3, 12).detach()
    positive, none = paper_layout(3)
    for row, loss in enumerate(soft_nn(scores, positive, none)):
        top = sum(math.exp(scores[row, column]) for column in range(12) if positive[row, column])
        bottom = sum(math.exp(scores[row, column]) for column in range(12))
        assert loss.item() == pytest.approx(-math.log(top / bottom), abs=1e-5)


def test_supcon_sums_positives_outside_the_log():
    scores = random_scores(2, 8).detach()
    for row, loss in enumerate(supcon(scores, *paper_layout(2))):
        own = dict.fromkeys(range(4 * row, 4 * row + 3), 1.0)
        assert loss.item() == pytest.approx(written_supcon(scores[row].tolist(), own), abs=1e-5)


def test_weights_reach_their_own_positives_and_are_normalised_per_row():
    scores, (positive, ignore) = random_scores(2, 8).detach(), paper_layout(2)
    ignore[0, 5] = True
    weights = torch.full((2, 8), 100.0)
    weights[0, :3], weights[1, 4:7] = torch.tensor([1.0, 0.25, 0.0]), torch.tensor([2.0, 3.0, 5.0])
    first, second = supcon(scores, positive, ignore, weights).tolist()
    assert first == pytest.approx(written_supcon(scores[0].tolist(), {0: 1.0, 1: 0.25, 2: 0.0}, (5,)), abs=1e-5)
    assert second == pytest.approx(written_supcon(scores[1].tolist(), {4: 2.0, 5: 3.0, 6: 5.0}), abs=1e-5)


def test_equal_weights_change_nothing():
    scores, (positive, none) = random_scores(3, 12), paper_layout(3)
    plain = supcon(scores, positive, none)
    assert torch.equal(supcon(scores, positive, none, torch.ones(3, 12)), plain)
    assert torch.allclose(supcon(scores, positive, none, torch.full((3, 12), 0.3)), plain)


@ALL
def test_one_positive_is_cross_entropy(loss):
    scores = random_scores(4, 16)
    positive = mask(4, 16, {row: [4 * row] for row in range(4)})
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(4) * 4, reduction="none")
    assert torch.allclose(loss(scores, positive, torch.zeros_like(positive)), expected, atol=1e-6)


@ALL
def test_length_of_the_embeddings_changes_nothing_after_normalising(loss):
    torch.manual_seed(0)
    queries, documents = torch.randn(3, 8), torch.randn(12, 8)

    def at(scale: float) -> torch.Tensor:
        cosine = torch.nn.functional.cosine_similarity((scale * queries)[:, None], (scale * documents)[None], dim=2)
        return loss(cosine / 0.05, *paper_layout(3))

    assert torch.allclose(at(1.0), at(7.0), atol=1e-4)


@ALL
def test_a_constant_added_to_a_row_changes_nothing(loss):
    scores = random_scores(3, 12)
    shift = torch.tensor([[5.0], [-3.0], [0.0]])
    assert torch.allclose(loss(scores + shift, *paper_layout(3)), loss(scores, *paper_layout(3)), atol=1e-5)


def test_gradient_attracts_own_positives_and_repels_the_rest():
    scores, (positive, none) = random_scores(3, 12), paper_layout(3)
    soft_nn(scores, positive, none).sum().backward()
    assert (scores.grad[positive] < 0).all()
    assert (scores.grad[~positive] > 0).all()
    assert torch.allclose(scores.grad.sum(dim=1), torch.zeros(3), atol=1e-6)


def test_supcon_attracts_every_positive_up_to_its_share_and_repels_the_rest():
    scores, (positive, none) = random_scores(3, 12), paper_layout(3)
    weights = torch.tensor([1.0, 0.5, 0.5, 1.0]).repeat(3, 3)
    supcon(scores, positive, none, weights).sum().backward()
    target = (weights * positive) / 2.0
    assert torch.allclose(scores.grad, scores.detach().softmax(dim=1) - target, atol=1e-6)


@pytest.mark.parametrize("loss", [soft_nn, supcon])
def test_relabelled_positive_repels_instead_of_attracting(loss):
    """Clearing the mask bit must flip the gradient; forgetting it trains the encoder towards hallucinations."""
    scores, (positive, none) = random_scores(3, 12), paper_layout(3)
    kept = torch.autograd.grad(loss(scores, positive, none).sum(), scores)[0]
    positive[0, 1] = False
    relabelled = torch.autograd.grad(loss(scores, positive, none).sum(), scores)[0]
    assert kept[0, 1] < 0 < relabelled[0, 1]


def test_relabelling_never_lowers_the_loss():
    scores, (positive, none) = random_scores(3, 12), paper_layout(3)
    kept = soft_nn(scores, positive, none)
    for column in range(3):
        fewer = positive.clone()
        fewer[0, column] = False
        assert soft_nn(scores, fewer, none)[0] >= kept[0]


@ALL
def test_ignored_column_gets_no_gradient_and_changes_nothing(loss):
    scores = random_scores(2, 4)
    positive, ignore = mask(2, 4, {0: [0], 1: [3]}), mask(2, 4, {0: [2], 1: [2]})
    found = loss(scores, positive, ignore)
    found.sum().backward()
    assert (scores.grad[:, 2] == 0).all()
    kept = [0, 1, 3]
    assert torch.allclose(found, loss(scores[:, kept], positive[:, kept], ignore[:, kept]))


@ALL
def test_permuting_rows_and_columns_permutes_nothing_else(loss):
    scores, (positive, ignore) = random_scores(3, 12), paper_layout(3)
    ignore[2, 3] = True
    rows, columns = torch.tensor([2, 0, 1]), torch.randperm(12)
    moved = loss(*(matrix[rows][:, columns] for matrix in (scores, positive, ignore)))
    assert torch.allclose(moved, loss(scores, positive, ignore)[rows], atol=1e-6)


@ALL
def test_large_scores_do_not_overflow(loss):
    """At temperature 0.05 similarities reach 20; at 0.005, 200."""
    scores = torch.tensor([[-200.0, 200.0, 199.0]], requires_grad=True)
    found = loss(scores, mask(1, 3, {0: [0]}), mask(1, 3, {}))
    found.sum().backward()
    assert found.item() == pytest.approx(400.3133, abs=1e-3)
    assert torch.isfinite(scores.grad).all()


@ALL
def test_half_precision_scores_are_summed_in_float32(loss):
    """bfloat16 keeps 8 bits: a loss of 5.55 over 256 columns would be off in the second decimal."""
    scores = random_scores(1, 256).detach().bfloat16()
    positive = mask(1, 256, {0: [0]})
    found = loss(scores, positive, torch.zeros_like(positive))
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(scores.float(), positive, torch.zeros_like(positive)))


@ALL
def test_row_without_positive_is_refused_and_not_infinite(loss):
    with pytest.raises(ValueError, match="row 1 has no positive"):
        loss(torch.zeros(2, 3), mask(2, 3, {0: [0]}), mask(2, 3, {}))


@ALL
def test_ignored_positive_is_refused(loss):
    with pytest.raises(ValueError, match="row 0 has a positive column that is ignored"):
        loss(torch.zeros(1, 3), mask(1, 3, {0: [0]}), mask(1, 3, {0: [0]}))


def test_positives_without_weight_are_refused_and_not_nan():
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    with pytest.raises(ValueError, match="row 1 has positives without weight"):
        supcon(torch.zeros(2, 3), mask(2, 3, {0: [0], 1: [0]}), mask(2, 3, {}), weights)
