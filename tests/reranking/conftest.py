"""Tiny models of other packages' tests, which are sources of candidates here."""

from tests.scorer.conftest import tiny_cross_encoder
from tests.sparse.conftest import tiny_masked

__all__ = ["tiny_cross_encoder", "tiny_masked"]
