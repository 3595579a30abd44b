"""Windows over a list: nothing is left out, and the best come to the front."""

import math
import random
from itertools import pairwise

import pytest

from pipeline.reranking.windows import windows


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, []),
        (8, [(0, 8)]),
        (19, [(0, 19)]),
        (20, [(0, 20)]),
        (21, [(1, 21), (0, 11)]),
        (25, [(5, 25), (0, 15)]),
        (30, [(10, 30), (0, 20)]),
        (35, [(15, 35), (5, 25), (0, 15)]),
    ],
)
def test_windows_go_from_the_back_to_the_front(count: int, expected: list[tuple[int, int]]):
    """RankGPT's own loop ranks nothing below 20 passages and leaves the first ones of 25 alone."""
    assert windows(count, 20, 10) == expected


@pytest.mark.parametrize("count", [2, 8, 19, 20, 21, 25, 30, 35, 100])
@pytest.mark.parametrize(("size", "step"), [(20, 10), (20, 15), (10, 5), (4, 1), (2, 1)])
def test_every_passage_is_shown_and_nothing_more_often_than_needed(count: int, size: int, step: int):
    found = windows(count, size, step)
    assert {place for start, end in found for place in range(start, end)} == set(range(count))
    assert all(2 <= end - start <= size for start, end in found)
    assert all(later[1] > earlier[0] for earlier, later in pairwise(found)), "nothing is carried on"
    assert len(found) <= max(0, math.ceil((count - size) / step)) + 1


@pytest.mark.parametrize("count", [21, 25, 30, 35, 100])
def test_ideal_comparator_brings_the_true_best_to_the_front(count: int):
    places = list(range(count))
    random.Random(count).shuffle(places)
    for start, end in windows(count, 20, 10):
        places[start:end] = sorted(places[start:end])
    assert places[:10] == list(range(10))
