"""Requests to a language model in, stored answers out, whoever answers."""
