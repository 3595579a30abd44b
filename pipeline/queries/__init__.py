"""Queries with labels: given ones, or made from passages; split so that train, dev and test share nothing."""
