"""Learning rate over the steps of a training."""

from __future__ import annotations

import math
from typing import Literal


def factor(step: int, steps: int, warmup_ratio: float, decay: Literal["linear", "cosine", "constant"]) -> float:
    """Share of the peak learning rate at 0-based `step`: linear up over the warm-up, then down to 0, or as it is."""
    warmup = max(1, round(steps * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    if decay == "constant":
        return 1.0
    left = (steps - step) / max(1, steps - warmup)
    return left if decay == "linear" else (1 - math.cos(math.pi * left)) / 2
