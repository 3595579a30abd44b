"""A tiny reranker of another package's tests, which is measured here."""

from tests.scorer.conftest import tiny_cross_encoder

__all__ = ["tiny_cross_encoder"]
