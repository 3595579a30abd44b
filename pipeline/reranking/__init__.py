"""TWOLAR, its data: queries, candidates from several sources, and the lists that a teacher makes of them."""
