"""The teacher's lists: the sentences that become queries."""

from pipeline.mining.teacher import sentences


def test_sentences_lose_their_numbers_and_short_ones_are_left_out():
    text = "1. What does SRGP-1 do to CED-10 here? Nothing. 2) Does engulfment kill cells that could live?\n- Why?"
    found = sentences(text, min_words=5)
    assert found == ["What does SRGP-1 do to CED-10 here?", "Does engulfment kill cells that could live?"]
