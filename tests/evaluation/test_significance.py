"""The paired test and the interval against enumeration."""

import itertools
import random

import numpy as np
import pytest

from pipeline.evaluation.significance import Comparison, compare

pytestmark = pytest.mark.filterwarnings("error")


def enumerated(tenths: list[int]) -> float:
    """Share of sign patterns whose sum is at least as far from 0 as the observed one, in whole tenths."""
    sums = [
        abs(sum(sign * each for sign, each in zip(signs, tenths, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(tenths))
    ]
    return sum(each >= abs(sum(tenths)) for each in sums) / len(sums)


def of_tenths(tenths: list[int], resamples: int = 10_000, seed: int = 0) -> Comparison:
    base = [0.9 if each < 0 else 0.1 for each in tenths]
    comparison = compare(base, [b + each / 10 for b, each in zip(base, tenths, strict=True)], resamples, seed)
    assert comparison is not None
    return comparison


@pytest.mark.parametrize(
    "tenths",
    [[1, 2], [1, 2, -3], [3, 1, 1, -2], [1, 1, 1, 1, 1], [0, 0, 4, 0], [0, 1, -1, 2, 2, 0, 3], [5, -8]],
)
def test_small_samples_are_tested_exactly(tenths: list[int]):
    """Sums of 0.1 are not exact: without care, equal sums count as different and p comes out too small."""
    assert of_tenths(tenths).p_value == enumerated(tenths)


def test_every_small_sample_of_four_is_exact():
    for tenths in itertools.product((-2, -1, 0, 1, 3), repeat=4):
        assert of_tenths(list(tenths), resamples=100).p_value == enumerated(list(tenths)), tenths


def test_large_samples_are_tested_by_resampling():
    draw = random.Random(1)
    tenths = [draw.choice([-3, -1, 2, 3]) for _ in range(15)]
    assert of_tenths(tenths).p_value == pytest.approx(enumerated(tenths), abs=0.02)


def test_a_resampled_p_value_is_never_zero():
    assert 0 < of_tenths([1] * 60).p_value < 0.001


def test_the_interval_is_that_of_all_resamples():
    tenths = [-1, 0, 1, 2, 4, 6]
    means = [sum(each) / 60 for each in itertools.product(tenths, repeat=6)]
    comparison = of_tenths(tenths, resamples=20_000)
    low, high = np.quantile(means, [0.025, 0.975])
    assert (comparison.low, comparison.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    assert comparison.difference == pytest.approx(0.2)


def test_the_sign_says_which_system_is_better():
    comparison = compare([0.2, 0.5, 0.4], [0.1, 0.5, 0.2], 1000, 0)
    assert comparison is not None
    assert comparison.difference == pytest.approx(-0.1)
    assert (comparison.queries, comparison.better, comparison.worse) == (3, 0, 2)


def test_equal_systems_differ_by_nothing_for_certain():
    assert compare([0.5, 0.7, 0.0], [0.5, 0.7, 0.0], 1000, 0) == Comparison(3, 0.0, 1.0, 0.0, 0.0, 0, 0)


def test_rounding_noise_is_no_difference():
    comparison = compare([0.3, 0.3], [0.1 + 0.2, 0.1 + 0.2], 1000, 0)
    assert comparison is not None
    assert (comparison.p_value, comparison.better, comparison.worse) == (1.0, 0, 0)


def test_the_same_gain_everywhere_has_an_interval_of_one_point():
    comparison = of_tenths([1] * 5)
    assert (comparison.low, comparison.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert comparison.p_value == 2 / 2**5


def test_one_query_proves_nothing():
    comparison = compare([0.0], [1.0], 1000, 0)
    assert comparison == Comparison(1, 1.0, 1.0, -1.0, 1.0, 1, 0)


def test_no_query_no_comparison():
    assert compare([], [], 1000, 0) is None


def test_a_seed_gives_the_same_figures_again():
    draw = random.Random(3)
    base, tuned = [[draw.random() for _ in range(300)] for _ in range(2)]
    assert compare(base, tuned, 1000, 5) == compare(base, tuned, 1000, 5)
    assert compare(base, tuned, 1000, 5) != compare(base, tuned, 1000, 6)


def test_unpaired_or_undefined_values_are_refused():
    with pytest.raises(ValueError, match="not the same queries"):
        compare([0.1], [0.1, 0.2], 1000, 0)
    with pytest.raises(ValueError, match="finite"):
        compare([0.1, float("nan")], [0.1, 0.2], 1000, 0)
