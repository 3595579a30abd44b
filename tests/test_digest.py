"""Digests: keys of stages are made of them."""

from pipeline.digest import digest


def test_digest_is_stable_across_versions():
    """A changed digest would make every finished stage run again."""
    assert digest({"b": 1, "a": [1.5, None, "é"]}) == "10c71012fb391fea"
