"""Crops and assignments."""

import pyarrow as pa

from pipeline.queries.generate import assign, crop


def table(rows: int) -> pa.Table:
    texts = [
        {"passage_id": f"d{n:03d}", "title": f"t{n}", "text": "a passage with enough words in it"} for n in range(rows)
    ]
    return pa.Table.from_pylist([*texts, {"passage_id": "z", "title": "t", "text": "too short"}])


def test_passages_are_not_repeated_while_there_are_enough_and_kinds_are_equal():
    made = assign(table(60), 60, ("question", "crop", "claim"), seed=0)
    assert len({a.passage_id for a in made}) == 60
    assert [sum(a.kind == kind for a in made) for kind in ("question", "crop", "claim")] == [20, 20, 20]


def test_no_passage_is_asked_twice_for_one_kind_and_a_small_corpus_gives_fewer():
    made = assign(table(4), 1000, ("question", "crop", "claim"), seed=0)
    assert len(made) == 12 == len({(a.kind, a.passage_id) for a in made})
    assert "z" not in {a.passage_id for a in made}


def test_crop_is_a_sentence_of_the_passage_of_query_length():
    text = "No. This sentence has exactly seven words. Short one."
    assert crop(text, "seed") == "This sentence has exactly seven words."
    assert crop("Too short.", "seed") is None
