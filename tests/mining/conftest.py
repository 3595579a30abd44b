"""A tiny reranker of another package's tests, which teaches here."""

from tests.scorer.conftest import tiny_cross_encoder

__all__ = ["tiny_cross_encoder"]
