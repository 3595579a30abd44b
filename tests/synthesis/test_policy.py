"""What becomes of a positive after its verdict."""

from pipeline.synthesis.verification import decide


def test_failed_positive_is_relabelled_by_default_and_unclear_ones_dropped():
    assert decide("yes", "relabel") == "kept"
    assert [decide("no", policy) for policy in ("relabel", "drop", "keep")] == ["relabelled", "dropped", "kept"]
    assert decide("unparseable", "keep") == "dropped"
    assert decide("absent", "keep") == "dropped"
    assert decide("unverified", "relabel") == "kept"
