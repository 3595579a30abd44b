"""Is a system better than its baseline, or is it luck? Paired tests on per-query values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

# Whole numbers add up exactly in any order, so that equal sums compare as equal.
_STEPS_PER_UNIT = 1e9
_VALUES_PER_BATCH = 500_000


@dataclass(frozen=True)
class Comparison:
    """The mean difference system - baseline of one metric over the same queries."""

    queries: int
    difference: float
    p_value: float  # two-sided: chance of a mean this far from 0 if the two systems were exchangeable
    low: float  # ends of the 95 % confidence interval of the difference
    high: float
    better: int  # queries on which the system is above its baseline
    worse: int


def compare(baseline: Sequence[float], system: Sequence[float], resamples: int, seed: int) -> Comparison | None:
    """Compare two systems on `[queries]` values of a metric in [0, 1], in the same order of queries.

    The p-value is that of Fisher's randomisation test, which flips signs of differences (Smucker, Allan &
    Carterette 2007); it is exact where the non-zero differences have at most `resamples` sign patterns. The
    interval is the bootstrap's percentile interval (Efron & Tibshirani 1993, chapter 13). One query says
    nothing about spread: its interval is [-1, 1], everything that is possible. Without queries there is
    nothing to compare: None.

    Raises ValueError when the lengths differ or a value is not finite.
    """
    if len(baseline) != len(system):
        raise ValueError(f"{len(system)} values but {len(baseline)} of the baseline: not the same queries.")
    differences = np.asarray(system, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ValueError("metrics must be finite numbers.")
    if len(differences) == 0:
        return None
    steps = np.rint(differences * _STEPS_PER_UNIT)
    test_stream, interval_stream = np.random.default_rng(seed).spawn(2)
    low, high = _interval(differences, resamples, interval_stream)
    return Comparison(
        queries=len(differences),
        difference=float(differences.mean()),
        p_value=_p_value(steps[steps != 0], resamples, test_stream),
        low=low,
        high=high,
        better=int((steps > 0).sum()),
        worse=int((steps < 0).sum()),
    )


def _p_value(steps: NDArray[np.float64], resamples: int, stream: np.random.Generator) -> float:
    if len(steps) < 2:
        return 1.0  # of one difference, both signs are equally far from 0
    result = stats.permutation_test(
        (steps,),
        np.sum,
        permutation_type="samples",  # of a single sample: flip signs
        vectorized=True,
        n_resamples=resamples,
        batch=_batch(len(steps)),
        random_state=stream,  # `rng` from scipy 1.15 on, which still takes the name that 1.13 knows
    )
    return float(result.pvalue)


def _interval(differences: NDArray[np.float64], resamples: int, stream: np.random.Generator) -> tuple[float, float]:
    if len(differences) == 1:
        return -1.0, 1.0
    result = stats.bootstrap(
        (differences,),
        np.mean,
        vectorized=True,
        n_resamples=resamples,
        batch=_batch(len(differences)),
        confidence_level=0.95,
        method="percentile",
        random_state=stream,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _batch(queries: int) -> int:
    return max(1, _VALUES_PER_BATCH // queries)
