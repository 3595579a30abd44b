"""Which pairs are asked about, and in which order."""

from pipeline.preferences.pairs import as_shown, choose_pairs

IDS = ["d", "b", "e", "a", "c"]


def test_policies_choose_the_pairs_they_promise():
    every = choose_pairs(IDS, "all", "0")
    assert len(every) == len(set(map(frozenset, every))) == 10
    assert all(IDS.index(one) < IDS.index(other) for one, other in every)
    assert choose_pairs(IDS, "adjacent", "0") == [("d", "b"), ("b", "e"), ("e", "a"), ("a", "c")]
    some = choose_pairs(IDS, "k", "0")
    assert len(some) == 5 and set(some) < set(every)
    assert choose_pairs(["x", "y"], "k", "0") == [("x", "y")]
    assert choose_pairs(["x"], "all", "0") == choose_pairs([], "adjacent", "0") == []


def test_choices_depend_on_the_seed_and_on_nothing_else():
    assert choose_pairs(IDS, "k", "7") == choose_pairs(IDS, "k", "7")
    assert len({tuple(choose_pairs(IDS, "k", str(seed))) for seed in range(20)}) > 10
    pairs = choose_pairs(IDS, "all", "0")
    shown = [as_shown(pair, "coin", "7") for pair in pairs]
    assert shown == [as_shown((other, one), "coin", "7") for one, other in pairs], "the better-ranked came through"
    assert shown != [as_shown(pair, "coin", "8") for pair in pairs]


def test_coin_shows_the_better_ranked_first_half_of_the_time():
    """Always first is the paper's order: a model that favours the first place would then confirm every ranking."""
    tosses = [as_shown((f"a{n}", f"b{n}"), "coin", "0")[0][0].startswith("a") for n in range(2000)]
    assert 900 < sum(tosses) < 1100


def test_both_orders_are_the_two_orders():
    assert as_shown(("y", "x"), "both", "0") == [("x", "y"), ("y", "x")]
