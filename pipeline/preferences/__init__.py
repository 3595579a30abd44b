"""Stage 2 of Syntriever, its data: which of two hits the LLM prefers, or a recorded ranking does."""
