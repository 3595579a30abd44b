"""Learned sparse retrieval (SPLADE): passages to weighted vocabulary entries, in shards that are searched on Ray."""
