"""How far a training is, as its workers tell the driver. Imports little: its actor imports what this file does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.progress import Progress
from pipeline.ray_session import beside_driver

if TYPE_CHECKING:
    from pipeline.training.tracking import Tracker


class Steps:
    """Ray actor that remembers how far training is; rank 0 tells it, the driver asks."""

    def __init__(self) -> None:
        self.done, self.total = 0, 0
        self.rows: list[dict[str, float]] = []

    def update(self, done: int, total: int, row: dict[str, float]) -> None:
        self.done, self.total = done, total
        self.rows.append(row)

    def read(self) -> tuple[int, int, list[dict[str, float]]]:
        """Position and the rows since the last call."""
        rows, self.rows = self.rows, []
        return self.done, self.total, rows


@contextmanager
def heard_steps(progress: Progress, tracker: Tracker) -> Iterator[Any]:
    """Pass steps on while the driver waits for training to end."""
    import ray

    actor = ray.remote(**beside_driver())(Steps).remote()
    finished = threading.Event()

    def listen() -> None:
        last = False
        while not last:
            last = finished.wait(1.0)
            done, total, rows = ray.get(actor.read.remote())
            for row in rows:
                tracker.write(row)
            if rows:
                progress.update("training steps", done, total)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        finished.set()
        thread.join()
        ray.kill(actor)
