"""How a stage says how far it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener for one stage at a time; the command line draws a bar, tests and jobs ignore it."""

    def update(self, description: str, done: int, total: int) -> None:
        """`done` of `total` units of what `description` names are finished."""

    def message(self, text: str) -> None:
        """A line worth keeping: a dev score, a count of outcomes."""


class Silent:
    """Listens to nothing."""

    def update(self, description: str, done: int, total: int) -> None:
        return

    def message(self, text: str) -> None:
        return
