"""A whole run in a minute: forty passages, a tiny encoder, a server that writes like a (dull) language model."""

import json
import zlib
from pathlib import Path
from typing import Any

from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.stage import Stage
from pipeline.workspace import Artifact

_TOPICS = {
    "bread": "dough yeast flour oven crust rises salt water kneading loaf",
    "boats": "sail mast anchor harbour keel rudder tide deck rope captain",
    "stars": "galaxy telescope orbit planet light comet nebula gravity sky moon",
    "trees": "leaf bark root forest oak branch seed season trunk soil",
}


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


def write_corpus(folder: Path) -> None:
    """Ten passages on each of four topics, each with words of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for topic, line in _TOPICS.items():
        words = line.split()
        for number, word in enumerate(words):
            others = " ".join(words[(number + step) % len(words)] for step in (1, 3, 4))
            first = f"The {word} belongs to {topic} number {number}."
            text = f"{first} People who know {word} also speak of {others} every day."
            rows.append({"_id": f"{topic}-{number}", "title": f"{word} in {topic}", "text": text})
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


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
    chance = zlib.crc32(content.encode())
    if "Answer with one word only" in content:
        text = "no"
    elif "Is this passage relevant" in content:
        text = ("yes", "yes", "no", "well, perhaps")[chance % 4]
    elif "Which passage is more relevant" in content:
        text = ("A", "B", "Passage B.", "neither", "hard to say")[chance % 5]
    elif "Write one short question" in content:
        title = content.split('"""')[1].split(" The ")[0]
        text = f"What is the {title}?" if chance % 5 else "I do not know."
    else:
        query = content.split("Question: ")[1].split("\n")[0]
        text = f"This passage number {chance % 1000} says much about {query[:60]} and its many friends."
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": len(content.split()), "completion_tokens": len(text.split()), "total_tokens": 0}
    completion = {"id": "1", "object": "chat.completion", "created": 0, "model": "test-model"}
    return {"body": json.dumps({**completion, "choices": [choice], "usage": usage})}
