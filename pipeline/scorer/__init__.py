"""A query and passages to scores: T5, causal and encoder rerankers behind one contract."""
