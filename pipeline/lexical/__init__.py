"""Lexical search: passages to a BM25 index."""
