"""Vectors to a sharded FAISS index: choose its kind, build it in Ray tasks, check it, search it with Ray actors."""
