"""A user's folder for a run of every kind of stage in a minute: forty passages, a table, an encoder, the recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from cluster.drill.encoder import write_encoder

RECIPE = "recipe.yaml"
_TOPICS = {
    "bread": "dough yeast flour oven crust rises salt water kneading loaf",
    "boats": "sail mast anchor harbour keel rudder tide deck rope captain",
    "stars": "galaxy telescope orbit planet light comet nebula gravity sky moon",
    "trees": "leaf bark root forest oak branch seed season trunk soil",
}
_TABLE_ROWS = 400  # trained on beside the recipe's own queries, so that an epoch takes seconds


def write_project(folder: Path, url: str) -> None:
    """Everything that a job of it needs; `url` is that of the LLM's server."""
    write_corpus(folder)
    write_encoder(folder / "encoder")
    rows = [{"query": f"what is number {n}", "positives": [f"number {n} is {n * n}"]} for n in range(_TABLE_ROWS)]
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / RECIPE).write_text(yaml.safe_dump(_recipe(url)))


def write_corpus(folder: Path) -> None:
    """Ten passages on each of four topics, each with words of its own, as `corpus.jsonl`."""
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


def _recipe(url: str) -> dict[str, Any]:
    # Several evaluations: with each there is a checkpoint to go on from
    training = {"batch_size": 8, "learning_rate": 1e-3, "cpus_per_worker": 1, "evaluations_per_epoch": 4}
    encoder = "./encoder"
    return {
        "corpus": {"path": "corpus.jsonl"},
        "queries": {"generate": 80, "kinds": ["question", "crop"], "test_share": 0.2, "dev_share": 0.2},
        "llm": {
            "engine": "openai",
            "model": "writer",
            "base_url": url,
            "concurrency": 4,
            "max_retries": 1,
            "down_s": 3,
        },
        "synthesis": {"max_queries": 16, "words": 20},
        "encoder": {"model": encoder, "cpus_per_actor": 1},
        "index": {"shards": 2},
        "negatives": {},
        "teacher": {"top_k": 10},
        "distill": {"epochs": 2, "datasets": [{"path": "table.jsonl"}], "dev_passages": 40, **training},
        "preferences": {"max_queries": 16},
        "align": {"epochs": 1, **training},
        "candidates": {"max_queries": 40, "list_size": 6, "floor": 1},
        "permutations": {"max_words": 40},
        "scorer": {"model": encoder, "max_tokens": 64, "cpus_per_actor": 1},
        "rerank": {"epochs": 1, "dev_depth": 5, **training},
        "evaluate": {"resamples": 200},
        "evaluate_reranker": {"depths": [5, 20]},
    }
