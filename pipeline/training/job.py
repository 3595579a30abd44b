"""What a training is given, where it stands, and what it returns: the data that travels to and from its workers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pipeline.recipe import TrainingSection
from pipeline.training.learner import Trainee
from pipeline.training.sampler import Dataset

STATE = "state.json"
SCORE = "dev_ndcg_at_10"

Curve = list[dict[str, float | None]]


@dataclass(frozen=True)
class TrainingSet:
    """Examples on disk, and which of them share batches."""

    parts: list[str]  # Parquet parts on the workspace's filesystem, in the order of their rows
    datasets: tuple[Dataset, ...]
    replayed_from: int | None = None  # row from which on they are stage 1's, in stage 2; None for none


@dataclass(frozen=True)
class TrainingJob:
    """Everything a worker needs; plain data that travels to it."""

    stage: str
    workspace: str
    section: TrainingSection
    seed: int
    examples: TrainingSet
    trainee: Trainee
    listener: Any  # handle of the actor that hears of finished steps


@dataclass
class State:
    """Where training stands. With seeds derived from the step, this and the weights' own state resume it exactly."""

    step: int = 0
    curve: Curve = field(default_factory=list)  # step, mean loss since the last, dev score
    metrics: list[dict[str, float]] = field(default_factory=list)  # one row per step
    best: float = -math.inf
    evaluations_since_best: int = 0
    stopped: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a worker returns: how training went, or why it makes no sense to try again."""

    curve: Curve
    metrics: list[dict[str, float]]
    error: str = ""
