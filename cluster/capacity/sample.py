"""A recipe for a few passages of its corpus."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.capacity.work import foreseen
from pipeline.corpus.rows import Row
from pipeline.recipe import Recipe
from pipeline.workspace import Workspace


@contextmanager
def sampled(recipe: Recipe, rows: Sequence[Row], queries: int) -> Iterator[Recipe]:
    """The recipe on these passages, in a folder below its workspace, which other nodes reach, too."""
    workspace = _below(recipe.workspace, f"calibration-{uuid.uuid4().hex[:8]}")
    with tempfile.TemporaryDirectory(prefix="rayriever-") as folder:
        path = Path(folder, "sample.jsonl")
        with path.open("w") as out:
            for row in rows:
                out.write(json.dumps({"_id": row.passage_id, "title": row.title, "text": row.text}) + "\n")
        try:
            yield recipe_of_sample(recipe, queries, str(path), workspace)
        finally:
            Workspace(workspace).delete_folder()


def _below(uri: str, name: str) -> str:
    place, mark, options = uri.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


def recipe_of_sample(recipe: Recipe, queries: int, corpus: str, workspace: str) -> Recipe:
    """The recipe with a corpus of its own, queries made from it, few of everything, and one worker in each stage.

    Where the recipe asks no LLM, crops are its queries: none is asked here. What is recorded for passages and queries
    of the whole corpus is left out, with what learns from it, and so are tables of the user's own: they are as long in
    a sample as in the whole.
    """
    asks = any(estimate.llm_requests for estimate in foreseen(recipe).values())
    section = recipe.queries
    written = section.kinds if set(section.kinds) - {"crop"} else type(section)().kinds
    usual = {name: type(section)().model_dump()[name] for name in ("dev_share", "test_share")}
    changes: dict[str, Any] = {
        "workspace": workspace,
        "corpus": recipe.corpus.model_copy(
            update={"path": corpus, "format": "auto", "id_field": None, "title_field": None, "text_field": None}
        ),
        "queries": section.model_copy(
            update={
                "path": None,
                "generate": queries,
                "kinds": written if asks else ("crop",),
                **{name: getattr(section, name) or share for name, share in usual.items()},
            }
        ),
        "index": recipe.index.model_copy(update={"shards": 1, "lists": None}),
    }
    few: dict[str, dict[str, Any]] = {
        "preferences": {"max_queries": queries},
        "candidates": {"max_queries": queries},
        "distill": {"workers": 1, "datasets": ()},
        "align": {"workers": 1},
        "rerank": {"workers": 1},
        **{name: {"actors": 1} for name in ("llm", "encoder", "sparse", "scorer")},
    }
    for name, values in few.items():
        if (section := getattr(recipe, name)) is not None:
            changes[name] = section.model_copy(update=values)
    if recipe.synthesis.path is not None:
        changes["synthesis"] = recipe.synthesis.model_copy(update={"path": None, "max_queries": 0})
    for recorded, learns in (("preferences", "align"), ("permutations", "rerank")):
        if (section := getattr(recipe, recorded)) is not None and section.path is not None:
            changes |= {recorded: None, learns: None}
    return recipe.model_copy(update=changes)
