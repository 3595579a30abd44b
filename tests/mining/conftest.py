"""A tiny reranker of another package's tests, which teaches here, and the workspace of the run that made it."""

from tests.scorer.conftest import release, tiny_cross_encoder

__all__ = ["release", "tiny_cross_encoder"]
