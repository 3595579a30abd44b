"""Joining labels and synthetic documents."""

from pipeline.training.examples import from_table, join_examples, to_table


def row(outcome: str) -> dict[str, str | None]:
    return {"decomposition": "cot", "positive": "p+", "negative": "p-", "outcome": outcome}


def join(outcome: str, loss: str = "soft_nn"):
    return join_examples({"q": "query"}, {"q": ["1"]}, {"1": "passage"}, {}, {"q": row(outcome)}, loss)[0][0]


def test_outcome_of_verification_decides_where_the_positive_goes():
    assert (join("kept").positives, join("kept").negatives) == (("cot", "p+"), ("p-",))
    assert (join("relabelled").positives, join("relabelled").negatives) == (("cot",), ("p-", "p+"))
    assert (join("dropped").positives, join("dropped").negatives) == (("cot",), ("p-",))


def test_infonce_knows_the_label_only():
    assert join("kept", "infonce").positives == join("relabelled", "infonce").negatives == ()
    assert join("kept", "infonce").labelled == ("passage",)


def test_query_without_any_positive_is_left_out_and_counted():
    """It would have an infinite loss."""
    examples, outcomes = join_examples({"a": "x", "b": "y"}, {"b": ["1"]}, {"1": "p"}, {}, {}, "soft_nn")
    assert [example.query_id for example in examples] == ["b"]
    assert outcomes["examples_without_positive"] == 1


def test_query_without_label_trains_on_what_the_llm_wrote():
    examples, _ = join_examples({"q": "x"}, {}, {}, {}, {"q": row("kept")}, "soft_nn")
    assert examples[0].labelled == () and examples[0].positives == ("cot", "p+")


def test_table_gives_back_the_examples():
    examples, _ = join_examples({"q": "x"}, {"q": ["1"]}, {"1": "p"}, {}, {"q": row("kept")}, "soft_nn")
    assert from_table(to_table(examples)) == examples


def test_duplicate_of_a_labelled_passage_goes_by_one_id():
    """Otherwise the copy that another query brings into the batch repels."""
    examples, _ = join_examples({"q": "x"}, {"q": ["2"]}, {"2": "p"}, {"2": "1"}, {}, "soft_nn")
    assert examples[0].labelled_ids == ("1",)
