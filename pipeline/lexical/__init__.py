"""Lexical search: passages to words, their counts, BM25 shards, and a search over these."""
