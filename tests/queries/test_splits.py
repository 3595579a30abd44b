"""Splits that share nothing."""

from pipeline.queries.given import Query
from pipeline.queries.splits import drop_leaks, hold_out, linked_groups


def query(name: str, passages: str, split: str = "train") -> Query:
    return Query(name, name, split, "given", dict.fromkeys(passages, 1))


def rejected() -> tuple[list[str], object]:
    names: list[str] = []
    return names, lambda source, line, row_id, reason: names.append(f"{row_id}: {reason}")


def test_chains_of_shared_passages_and_wordings_are_one_group():
    queries = [query("a", "12"), query("b", "23"), query("c", "9"), query("d", "3"), query("e", "7")]
    groups = linked_groups(queries, {"9": "1"}, {"e": "d"})  # 9 repeats 1; e is worded like d
    assert len(set(groups)) == 1


def test_held_out_splits_share_no_passage_and_have_about_their_share():
    queries = [query(f"q{n}", "abcdefghijklmnopqrstuvwxyz"[n // 4]) for n in range(100)]
    groups = linked_groups(queries, {}, {})
    held = hold_out(queries, groups, {"test": 0.2, "dev": 0.1}, seed=0)
    by_split = {s: {p for q in held if q.split == s for p in q.relevant} for s in ("train", "dev", "test")}
    assert not by_split["train"] & by_split["dev"] and not by_split["train"] & by_split["test"]
    assert not by_split["dev"] & by_split["test"]
    assert sum(q.split == "test" for q in held) == 20
    assert 8 <= sum(q.split == "dev" for q in held) <= 10


def test_given_dev_loses_nothing_to_a_test_split_that_is_made():
    queries = [query(f"q{n}", "abcdefghij"[n]) for n in range(10)] + [
        query(f"d{n}", "abcde"[n], "dev") for n in range(5)
    ]
    groups = linked_groups(queries, {}, {})
    held = hold_out(queries, groups, {"test": 0.4}, seed=0)
    kept, outcomes = drop_leaks(held, {}, {}, lambda *row: None)
    assert sum(q.split == "dev" for q in kept) == 5 and "dev_queries_leaked" not in outcomes
    assert sum(q.split == "test" for q in kept) == 2


def test_group_larger_than_a_split_stays_in_train():
    """One passage that answers everything would otherwise move all queries to test."""
    queries = [query(f"q{n}", "x") for n in range(50)]
    held = hold_out(queries, linked_groups(queries, {}, {}), {"test": 0.1}, seed=0)
    assert all(q.split == "train" for q in held)


def test_train_query_that_test_knows_is_dropped_and_evaluation_stays_whole():
    queries = [
        query("shares passage", "1"),
        query("shares near-duplicate", "2"),
        query("same wording", "8"),
        query("clean", "9"),
        query("t1", "1", "test"),
        query("t2", "3", "test"),
        query("d1", "3", "dev"),
    ]
    names, reject = rejected()
    kept, outcomes = drop_leaks(queries, {"2": "1"}, {"t2": "same wording"}, reject)
    assert sorted(q.query_id for q in kept) == ["clean", "t1", "t2"]
    assert outcomes == {"train_queries_leaked": 3, "dev_queries_leaked": 1}
    assert "shares passage: train query shares its passage '1' with test" in names


def test_passages_judged_irrelevant_tie_nothing():
    train, test = query("a", "1"), Query("b", "b", "test", "given", {"1": 0, "2": 1})
    kept, _ = drop_leaks([train, test], {}, {}, lambda *row: None)
    assert len(kept) == 2
