"""A whole run in a minute: forty passages, a tiny encoder, a server that writes like a (dull) language model."""

from pathlib import Path
from typing import Any

from cluster.drill.project import write_corpus as write_corpus
from cluster.drill.writer import completion, written_for
from pipeline.artifact import Artifact
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.stage import Stage


class Recorder(Silent):
    """Listener of a run; remembers which stages ran, which were kept, and what was said."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.kept: list[str] = []
        self.messages: list[str] = []

    def reused(self, artifact: Artifact) -> None:
        self.kept.append(artifact.manifest.stage)

    def started(self, stage: Stage) -> "Recorder":
        self.ran.append(stage.name)
        return self

    def finished(self, artifact: Artifact) -> None: ...

    def message(self, text: str) -> None:
        self.messages.append(text)


def recipe_values(folder: Path, encoder: Path, url: str) -> dict[str, Any]:
    return {
        "workspace": str(folder / "workspace"),
        "corpus": {"path": str(folder / "corpus.jsonl")},
        "queries": {"generate": 80, "kinds": ["question", "crop"], "test_share": 0.2, "dev_share": 0.2},
        "llm": {"engine": "openai", "model": "test-model", "base_url": url, "concurrency": 4, "max_retries": 0},
        "synthesis": {"max_queries": 16, "words": 20},
        "encoder": {"model": str(encoder), "cpus_per_actor": 1},
        "distill": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "cpus_per_worker": 1, "dev_passages": 40},
        "index": {"shards": 2},
        "evaluate": {"resamples": 200},
    }


def small_recipe(folder: Path, encoder: Path, url: str, **sections: dict[str, Any]) -> Recipe:
    values = recipe_values(folder, encoder, url)
    for name, section in sections.items():
        values[name] = values[name] | section
    return Recipe.model_validate(values)


def write_like_a_model(content: str, attempt: int) -> dict[str, Any]:
    """Field of `Reply`: questions from the passage, passages from the question, verdicts and choices, some unclear."""
    return {"body": completion(written_for(content), content)}
