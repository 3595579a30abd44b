"""Which part of a list the LLM sees at a time: windows from the back of the list to its front."""

from __future__ import annotations


def windows(count: int, size: int, step: int) -> list[tuple[int, int]]:
    """(start, end) of each window over `count` passages, in the order in which they are ranked.

    Every passage is in one: 8 passages are the window (0, 8), 25 are (5, 25) and (0, 15) where a window has 20 and the
    step is 10. The best `size - step` of a window come into the next. There are at most ceil((count - size) / step) + 1
    windows, and none of fewer than two passages, which have no order. Sun et al. 2023 (arXiv 2304.09542), section 3.2.
    """
    if count < 2:
        return []
    found, end = [], count
    while True:
        start = max(0, end - size)
        found.append((start, end))
        if start == 0:
            return found
        end -= step
