"""A thread that watches something for as long as a block of code runs."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Sampler(ABC):
    """Context manager around what is watched."""

    def __init__(self) -> None:
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @abstractmethod
    def _sample(self) -> None:
        """Runs in the thread, until `_finished` is set."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finished.set()
        self._thread.join()
