"""Text to vectors: a saved sentence-transformers model, token-budget batches, whole corpora on Ray Data."""
