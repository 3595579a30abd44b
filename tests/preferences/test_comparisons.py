"""Questions and what follows from their answers, without any model."""

import pytest

from pipeline.preferences.comparisons import Comparison, preferences_of, questions
from pipeline.recipe import PreferencesSection

CANDIDATES = {f"q{number}": [f"{number}-{rank}" for rank in range(5)] for number in range(100)}


def always_a(section: PreferencesSection) -> list[Comparison]:
    """Answers of a model that likes the first place and nothing else."""
    return [
        Comparison(each.query_id, each.first_id, each.second_id, "A", "m", "first")
        for each in questions(CANDIDATES, {}, section, 0)
    ]


def test_position_bias_is_noise_with_coins():
    """A model that always says A must neither confirm the ranking nor turn it round."""
    preferences, outcomes = preferences_of(always_a(PreferencesSection(order="coin")))
    pairs = [pair for decided in preferences.values() for pair in decided]
    agree = sum(better[-1] < worse[-1] for better, worse in pairs)
    assert len(pairs) == outcomes["pairs"] == outcomes["answer_first"] == 1000
    assert 450 < agree < 550


def test_position_bias_is_no_preference_with_both_orders():
    preferences, outcomes = preferences_of(always_a(PreferencesSection(order="both")))
    assert not preferences
    assert outcomes == {"answer_first": 2000, "pairs": 1000, "pairs_disagreeing": 1000, "no_preference": 1000}


@pytest.mark.parametrize(
    ("answers", "preferred", "counted"),
    [
        (("first", "second"), [("x", "y")], {"pairs_agreeing": 1}),
        (("second", "first"), [("y", "x")], {"pairs_agreeing": 1}),
        (("first", "first"), [], {"pairs_disagreeing": 1, "no_preference": 1}),
        (("first", "none"), [], {"no_preference": 1}),
        (("none", "none"), [], {"no_preference": 1}),
        (("unparseable", "second"), [], {"no_preference": 1}),
        (("error", "error"), [], {"no_preference": 1}),
    ],
)
def test_both_orders_count_once_and_only_when_they_agree(answers, preferred, counted):
    """x is shown first, then y."""
    asked = [
        Comparison("q", "x", "y", "", "m", answers[0]),
        Comparison("q", "y", "x", "", "m", answers[1]),
    ]
    preferences, outcomes = preferences_of(asked)
    assert preferences.get("q", []) == preferred
    kept = {name: count for name, count in outcomes.items() if not name.startswith("answer")}
    assert kept == {"pairs": 1, **counted}


def test_label_decides_where_exactly_one_of_a_pair_has_one():
    candidates, labelled = {"q": ["a", "b", "c"]}, {"q": {"b", "c"}}
    for order in ("coin", "both"):
        asked = questions(candidates, labelled, PreferencesSection(order=order), 0)
        by_label = [each for each in asked if each.label]
        assert {frozenset((each.first_id, each.second_id)) for each in by_label} == {
            frozenset("ab"),
            frozenset("ac"),
        }
        assert len(by_label) == 2 and len(asked) == (3 if order == "coin" else 4)
        comparisons = [
            Comparison("q", each.first_id, each.second_id, None, None, each.label) for each in by_label if each.label
        ]
        preferences, outcomes = preferences_of(comparisons)
        assert {pair[1] for pair in preferences["q"]} == {"a"}, "the labelled passage lost"
        assert outcomes["label_first"] + outcomes["label_second"] == 2
