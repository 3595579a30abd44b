"""Which encoders a run has: the base one and every trained one, each with the stage that made it and its index."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact import Artifact

BASE, TUNED, ALIGNED = "base", "tuned", "aligned"


@dataclass(frozen=True)
class DenseSystem:
    """An encoder with an index of the corpus."""

    name: str
    index: str  # the stage that made its index
    training: str | None  # the stage that made its weights; None for the base model of the recipe

    def model(self, artifacts: Mapping[str, Artifact]) -> Path | None:
        """Local folder of the trained model; None stands for the base model of the recipe."""
        return None if self.training is None else artifacts[self.training].directory("model")


_EVERY_ENCODER = (
    DenseSystem(BASE, "index_base", None),
    DenseSystem(TUNED, "index_tuned", "distill"),
    DenseSystem(ALIGNED, "index_aligned", "align"),
)


def dense_systems(stages: Container[str]) -> tuple[DenseSystem, ...]:
    """The encoders whose model and index are among the stages: base first, then in the order of training."""
    return tuple(e for e in _EVERY_ENCODER if e.index in stages and (e.training is None or e.training in stages))
