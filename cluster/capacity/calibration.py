"""What a worker does per second in every stage: what is measured, where it holds, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.capacity.work import BY_LLM, SEARCHING, Work, kind_of
from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe
from pipeline.stages import stages_of

VERSION = 2
# What decides, beside the machine, how fast workers are: these fields of these sections, where they have them
_SECTIONS = (
    *("llm", "encoder", "sparse", "scorer", "index", "synthesis", "preferences", "permutations", "teacher"),
    *("candidates", "distill", "align", "rerank"),
)
_MODEL = {"model", "engine", "engine_kwargs", "base_url", "endpoints", "lora", "reranker", "cross_encoder"}
_SIZE = {"batch_size", "tokens_per_batch", "max_tokens", "max_terms", "list_size", "hard_negatives", "lora_rank"}
_TEXT = {"words", "max_words", "window", "top_k", "teacher_candidates", "chat_template"}
_WAY = {"concurrency", "strategy", "sources", "depth", "precision", "dtype", "loss", "gradient_checkpointing"}
_PLACE = {"use_gpu", "gpus", "gpus_per_actor", "cpus_per_actor", "cpus_per_worker"}


@dataclass(frozen=True)
class Sample:
    """What is run once: so many passages of the corpus, and queries made from them."""

    passages: int
    queries: int


@dataclass(frozen=True)
class Pace:
    """Of a stage: `overhead_s`, once, and the seconds of one worker for one unit of work.

    Args:
        is_rough: the samples took the same time but for noise: seconds per unit are the most that they may be.
    """

    unit: str
    overhead_s: float
    worker_s_per_unit: float
    is_rough: bool = False


@dataclass(frozen=True)
class Calibration:
    """Paces by stage, none of those that had nothing to do, and what a core computes per second (`speeds`).

    Args:
        values: of the recipe, by stage, that decided the pace.
    """

    paces: Mapping[str, Pace]
    samples: tuple[Sample, ...]
    speeds: Mapping[str, float]
    values: Mapping[str, Mapping[str, Any]]

    def pace(self, work: Work) -> Pace | None:
        """Of a stage of that name, or of another round of it, where its time grew with the same."""
        found = self.paces.get(work.stage) or self.paces.get(kind_of(work.stage))
        return found if found is not None and found.unit == work.unit else None

    def other_values(self, stage: str, recipe: Recipe) -> list[str]:
        """Keys whose values in the recipe are others than those that the stage's pace was measured with."""
        measured = self.values.get(stage) or self.values.get(kind_of(stage), {})
        wanted = deciding_values(recipe)[stage]
        return sorted(key for key in measured.keys() | wanted.keys() if measured.get(key) != wanted.get(key))

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Raises RayrieverError where the file is none that `to_json` has made."""
        try:
            values = json.loads(path.read_text())
            if values["version"] != VERSION:
                raise ValueError(f"version {values['version']}, not {VERSION}")
            paces = {stage: Pace(**pace) for stage, pace in values["paces"].items()}
            samples = tuple(Sample(**each) for each in values["samples"])
            speeds = {name: float(speed) for name, speed in values["speeds"].items()}
            return cls(paces, samples, speeds, {stage: dict(each) for stage, each in values["values"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RayrieverError(
                f"calibration {path}: cannot be used ({error}). Make it: rayriever calibrate RECIPE --out {path}"
            ) from error


def deciding_values(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """By stage, the values that decide its pace, as JSON has them."""
    decisive, found = _MODEL | _SIZE | _TEXT | _WAY | _PLACE, {}
    for stage in stages_of(recipe):
        kind, names = kind_of(stage.name), set(stage.sections)
        names |= {"llm"} if kind in BY_LLM else {"index"} if kind in SEARCHING else set()
        found[stage.name] = {
            f"{name}.{key}": value
            for name in _SECTIONS
            if name in names
            for key, value in getattr(recipe, name).model_dump(mode="json", include=decisive).items()
        }
    return found
