"""Shorter vectors inside the vectors, for losses that are averaged over several lengths."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import normalize


def matryoshka_views(vectors: Tensor, dimensions: Sequence[int]) -> list[Tensor]:
    """The vectors and their first k dimensions for each k, all of length 1 again (Kusupati et al. 2022, section 3).

    Args:
        vectors: `[n, d]`.
        dimensions: lengths k of the truncations; d itself and repetitions add nothing.
    Returns: one `[n, k]` per length, float32, the full one first, then in the given order. The training loss is the
        mean of the losses on the views. Raises ValueError for a dimension below 1 or above d.
    """
    full = vectors.shape[1]
    for dimension in dimensions:
        if not 1 <= dimension <= full:
            raise ValueError(f"matryoshka dimension {dimension}: must be from 1 to {full}, the encoder's")
    return [normalize(vectors.float()[:, :k], dim=1) for k in dict.fromkeys((full, *dimensions))]
