"""Learning rate over the steps of a training."""

import pytest

from pipeline.training.schedule import factor


def factors(steps: int, warmup_ratio: float, decay: str) -> list[float]:
    return [factor(step, steps, warmup_ratio, decay) for step in range(steps)]  # type: ignore[arg-type]


def test_linear_rises_over_the_warm_up_and_falls_to_the_end():
    rising = [0.25, 0.5, 0.75, 1.0]
    falling = [16 / 16, 15 / 16, 14 / 16]
    found = factors(20, 0.2, "linear")
    assert found[:7] == pytest.approx(rising + falling)
    assert found[-1] == pytest.approx(1 / 16)


def test_cosine_falls_slowly_then_fast_then_slowly():
    found = factors(10, 0.0, "cosine")[1:]  # one step of warm-up, then 9 of decay
    assert found[0] == pytest.approx(1.0)
    assert found[3] == pytest.approx(0.75)  # a third of the way: (1 + cos(pi / 3)) / 2
    assert found[6] == pytest.approx(0.25)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 150])
def test_no_step_is_lost_and_the_peak_is_reached(steps: int, warmup_ratio: float, decay: str):
    """A warm-up that never ends (the paper's 1,000 steps on 150), or a rate of 0, trains nothing and says nothing."""
    found = factors(steps, warmup_ratio, decay)
    assert max(found) == 1.0
    assert min(found) > 0
    peak = found.index(1.0)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
