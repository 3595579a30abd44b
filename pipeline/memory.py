"""How much memory a stage took: the driver and all processes below it, sampled while it runs."""

from __future__ import annotations

import psutil

from pipeline.sampler import Sampler

_INTERVAL_S = 0.5


class PeakMemory(Sampler):
    """Context manager; afterwards `peak_mb` is the largest private memory seen, in MB, on this machine.

    Shared memory counts nothing: Ray maps its object store into every worker.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak_mb = 0.0

    def _sample(self) -> None:
        driver = psutil.Process()
        while True:
            processes = [driver, *driver.children(recursive=True)]
            self.peak_mb = max(self.peak_mb, sum(map(_private_mb, processes)))
            if self._finished.wait(_INTERVAL_S):
                return


def _private_mb(process: psutil.Process) -> float:
    try:
        memory = process.memory_info()
    except psutil.Error:  # ended meanwhile
        return 0.0
    return float(memory.rss - getattr(memory, "shared", 0)) / 1e6
