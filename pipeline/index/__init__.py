"""Vectors to an exact, sharded FAISS index: build, search with Ray actors, merge."""
