"""Several passes as one list: Borda's order, and what is known of each pair."""

import random
from itertools import combinations

import numpy as np
import pytest

from pipeline.preferences.recorded import RecordedRanking
from pipeline.reranking.aggregation import Ranking, aggregate, borda, confidence, of_grades, whole
from pipeline.reranking.lists import Query
from pipeline.reranking.windows import windows

QUERY = Query("q", "what", "given")


def test_order_is_that_of_mean_places_and_shares_are_of_the_others():
    order, shares = borda("abc", ["abc", "bac", "bca"])
    assert order == ["b", "a", "c"] and shares == pytest.approx([5 / 6, 3 / 6, 1 / 6])
    assert borda("abc", ["cab"]) == (["c", "a", "b"], [1.0, 0.5, 0.0])
    assert borda("a", ["a"]) == (["a"], [1.0])


def test_equal_shares_keep_the_first_order():
    """Summed as fractions, equal shares could differ in the last bit and turn the order round."""
    ids = [f"p{n}" for n in range(49)]
    order, shares = borda(ids[::-1], [ids, ids[::-1]] * 3)
    assert order == ids[::-1] and set(shares) == {0.5}


def test_absent_passages_share_the_places_below():
    """A run cut at some depth says that the others are worse, and nothing of their order."""
    order, shares = borda("abcde", ["abc", "abc"])
    assert order == ["a", "b", "c", "d", "e"] and shares == [1.0, 0.75, 0.5, 0.125, 0.125]
    assert sum(borda("abcde", ["ed"])[1]) == pytest.approx(sum(borda("abcde", ["edcba"])[1]))
    with pytest.raises(KeyError):
        borda("ab", ["abz"])


def walked(ids: list[str], size: int, step: int, noise: random.Random) -> Ranking:
    """Windows whose comparator is wrong at times, as a language model is."""
    order, seen = list(ids), []
    for start, end in windows(len(ids), size, step):
        ranked = sorted(order[start:end], key=lambda each: int(each) + noise.uniform(0, 8))
        order[start:end] = ranked
        seen.append(tuple(ranked))
    return Ranking(tuple(order), tuple(seen))


def implied_by_search(ranking: Ranking) -> set[tuple[str, str]]:
    """(above, below) by depth-first search over pairs that stood in one window, oriented by the last of these."""
    last: dict[frozenset[str], tuple[str, str]] = {}
    for window in ranking.windows:
        for above, below in combinations(window, 2):
            last[frozenset((above, below))] = (above, below)
    below_of: dict[str, set[str]] = {each: set() for each in ranking.passage_ids}
    for above, below in last.values():
        below_of[above].add(below)
    found = set()
    for start in ranking.passage_ids:
        pending = list(below_of[start])
        while pending:
            each = pending.pop()
            if (start, each) not in found:
                found.add((start, each))
                pending += below_of[each]
    return found


@pytest.mark.parametrize(("count", "size", "step"), [(2, 20, 10), (8, 4, 2), (13, 5, 2), (25, 8, 5), (30, 20, 10)])
def test_confidence_equals_brute_force(count: int, size: int, step: int):
    noise = random.Random(count)
    ids = [str(number) for number in range(count)]
    rankings = []
    for _ in range(3):
        noise.shuffle(ids)
        rankings.append(walked(ids, size, step, noise))
    ranked = aggregate(QUERY, "listwise", ids, rankings)
    implied = [implied_by_search(each) for each in rankings]
    for each, found in zip(rankings, implied, strict=True):
        place = {passage_id: number for number, passage_id in enumerate(each.passage_ids)}
        assert all(place[above] < place[below] for above, below in found), "a pass contradicts its own order"
    expected = [
        np.mean([((i, j) in found) - ((j, i) in found) for found in implied])
        for i, j in combinations(ranked.passage_ids, 2)
    ]
    assert ranked.confidence.dtype == np.float32
    assert ranked.confidence.tolist() == pytest.approx(expected, abs=1e-6)
    if size < count:
        assert 0 in expected, "the case has no unknown pair"


def test_pair_that_no_window_had_and_nothing_implies_is_unknown():
    """b and d lost to a in their windows; which of them is better nobody has said."""
    ranking = Ranking(("a", "b", "c", "d"), (("a", "c", "d"), ("a", "b")))
    pairs = dict(zip(combinations("abcd", 2), confidence("abcd", [ranking]).tolist(), strict=True))
    assert pairs == {
        ("a", "b"): 1.0,
        ("a", "c"): 1.0,
        ("a", "d"): 1.0,
        ("b", "c"): 0.0,
        ("b", "d"): 0.0,
        ("c", "d"): 1.0,
    }


def test_chain_over_windows_implies_the_pair():
    """e and c never meet, but e beat b in the second window, and b had beaten c in the first."""
    ranking = Ranking(("e", "b", "c"), (("b", "c"), ("e", "b")))
    assert confidence("ebc", [ranking]).tolist() == [1.0, 1.0, 1.0]


def test_later_window_overrules_an_earlier_one():
    """A model that changes its mind about two passages must not be taken to be of both minds about all between."""
    ranking = Ranking(("b", "a", "c"), (("a", "b", "c"), ("b", "a")))
    assert confidence("abc", [ranking]).tolist() == [-1.0, 1.0, 1.0]


def test_passes_that_disagree_cancel_out_and_the_flat_triangle_is_in_the_final_order():
    ranked = aggregate(QUERY, "recorded", "abc", [whole("cab"), whole("cba"), whole("cab")])
    assert ranked.passage_ids == ("c", "a", "b")
    assert ranked.confidence.tolist() == pytest.approx([1.0, 1.0, 1 / 3])


def test_lists_of_one_have_no_pairs():
    alone = aggregate(QUERY, "listwise", ["a"], [Ranking(("a",), ())])
    assert (alone.passage_ids, alone.scores, len(alone.confidence)) == (("a",), (1.0,), 0)


def test_grades_are_scores_and_two_irrelevant_passages_are_no_pair():
    recorded = RecordedRanking("q", ("a", "b", "c", "d"), (2.0, 2.0, 0.0, 0.0), graded=True)
    ranked = of_grades(QUERY, recorded)
    assert ranked.scores == (2.0, 2.0, 0.0, 0.0)
    assert ranked.confidence.tolist() == [1, 1, 1, 1, 1, 0]
