"""Stage 1 of Syntriever: documents that the LLM writes for a query, and its own check of them."""
