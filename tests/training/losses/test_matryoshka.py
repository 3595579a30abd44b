"""Truncated views of vectors."""

import pytest
import torch

from pipeline.training.losses import matryoshka_views

VECTORS = torch.tensor([[0.6, 0.0, 0.8, 0.0], [0.1, 0.7, 0.5, 0.5]])


def test_truncations_are_the_first_dimensions_and_of_length_one_again():
    """Without the new length a short view's cosine is damped, and the temperature with it."""
    full, two, three = matryoshka_views(VECTORS, (2, 3))
    assert torch.allclose(full, VECTORS)
    assert torch.allclose(two, torch.tensor([[1.0, 0.0], [0.1, 0.7]]) / torch.tensor([[1.0], [0.5**0.5]]))
    assert torch.allclose(three, torch.tensor([[0.6, 0.0, 0.8], [0.1, 0.7, 0.5]]) / torch.tensor([[1.0], [0.75**0.5]]))


def test_without_dimensions_the_full_view_is_all():
    assert [view.shape for view in matryoshka_views(VECTORS, ())] == [(2, 4)]


def test_full_length_and_repetitions_count_once():
    """A length listed twice would weigh twice in the mean of the losses."""
    assert [view.shape[1] for view in matryoshka_views(VECTORS, (4, 2, 2, 1))] == [4, 2, 1]


def test_gradients_reach_the_shared_first_dimensions_only():
    vectors = VECTORS.clone().requires_grad_()
    (matryoshka_views(vectors, (2,))[1] @ torch.tensor([1.0, -2.0])).sum().backward()
    assert (vectors.grad[:, 2:] == 0).all()
    assert (vectors.grad[:, :2] != 0).any(dim=1).all()


def test_half_precision_vectors_are_normalised_in_float32():
    for view in matryoshka_views(VECTORS.bfloat16(), (3,)):
        assert view.dtype == torch.float32
        assert torch.allclose(view.norm(dim=1), torch.ones(2), atol=1e-6)


@pytest.mark.parametrize("dimension", [0, -1, 5])
def test_dimension_that_the_encoder_does_not_have_is_refused(dimension: int):
    """A slice would quietly give the whole vector, or all but its end."""
    with pytest.raises(ValueError, match=f"matryoshka dimension {dimension}: must be from 1 to 4"):
        matryoshka_views(VECTORS, (2, dimension))
