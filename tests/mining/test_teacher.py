"""The teacher's lists: fused scores, and the sentences that become queries."""

import pytest

from pipeline.mining.teacher import fuse, sentences
from pipeline.rankings import Hit


def ids(hits: list[Hit]) -> list[str]:
    return [hit.passage_id for hit in hits]


def test_fused_score_is_cosine_plus_the_weighted_share_of_bm25():
    fused = fuse([Hit("a", 0.9), Hit("b", 0.7)], [Hit("b", 20.0), Hit("a", 5.0)], lexical_weight=0.4)
    assert ids(fused) == ["b", "a"]
    assert [hit.score for hit in fused] == pytest.approx([0.7 + 0.4, 0.9 + 0.1])


def test_passage_that_only_bm25_found_gets_the_lowest_cosine_and_not_zero():
    """At zero it would rank below everything, and the words that only BM25 knows would teach nothing."""
    fused = fuse([Hit("a", 0.6), Hit("b", 0.5)], [Hit("c", 10.0)], lexical_weight=0.4)
    assert ids(fused) == ["c", "a", "b"]
    assert fused[0].score == pytest.approx(0.9)


def test_without_weight_or_words_the_order_is_the_encoder_s():
    dense = [Hit("b", 0.6), Hit("a", 0.6), Hit("c", 0.1)]
    assert ids(fuse(dense, [Hit("c", 10.0)], 0.0)) == ["a", "b", "c"]
    assert ids(fuse(dense, [], 0.4)) == ["a", "b", "c"]


def test_sentences_lose_their_numbers_and_short_ones_are_left_out():
    text = "1. What does SRGP-1 do to CED-10 here? Nothing. 2) Does engulfment kill cells that could live?\n- Why?"
    found = sentences(text, min_words=5)
    assert found == ["What does SRGP-1 do to CED-10 here?", "Does engulfment kill cells that could live?"]
