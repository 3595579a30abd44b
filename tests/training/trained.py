"""A small training set on a shelf, and stages run on it with everything they say kept."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline import records
from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.stage import StageContext
from tests.artifacts import ABOUT, Shelf

WORDS = ["dough", "yeast", "flour", "oven", "crust", "salt", "sail", "mast", "anchor", "keel", "rudder", "tide"]
PASSAGES = [
    {"passage_id": f"p{n:02d}", "title": f"on {word}", "text": f"{word} is number {n} and more"}
    for n, word in enumerate(WORDS)
]
TRAIN = [{"query_id": f"q{n}", "text": f"what is {word}"} for n, word in enumerate(WORDS[:9])]
DEV = [{"query_id": f"d{n}", "text": f"tell of {word}", "split": "dev"} for n, word in enumerate(WORDS)]
JUDGED = [(f"q{n}", f"p{n:02d}", 1) for n in range(9)] + [(f"d{n}", f"p{n:02d}", 1) for n in range(12)]


class Listener(Silent):
    """Keeps what a stage says."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


class TrainingShelf(Shelf):
    """A shelf with corpus, queries and synthetic documents; dropout is off, so that workers compare."""

    def __init__(self, folder: Path, encoder: Path, **sections: dict[str, Any]) -> None:
        without_dropout = folder / "encoder"
        shutil.copytree(encoder, without_dropout)
        config = json.loads((without_dropout / "config.json").read_text())
        config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        (without_dropout / "config.json").write_text(json.dumps(config))
        common = {"batch_size": 4, "dtype": "float32", "learning_rate": 1e-3, "cpus_per_worker": 1, "dev_passages": 10}
        values = {
            "workspace": str(folder / "workspace"),
            "corpus": {"path": "unread"},
            "encoder": {"model": str(without_dropout), "cpus_per_actor": 1},
            "distill": common | sections.pop("distill", {}),
            **({"align": common | sections.pop("align"), "preferences": {}} if "align" in sections else {}),
            **sections,
        }
        super().__init__(Recipe.model_validate(values))
        self.corpus(PASSAGES, {})
        self.queries([*TRAIN, *DEV], JUDGED)
        self.synthesis({"q0": ("kept", "dough rises", "dough is blue"), "q1": ("relabelled", "yeast sails", None)})

    def synthesis(self, written: dict[str, tuple[str, str | None, str | None]]) -> None:
        """Query id -> what became of its positive, the positive, the negative."""
        rows = [
            {"query_id": i, "decomposition": None, "positive": p, "negative": n, "verdict": "yes", "outcome": outcome}
            for i, (outcome, p, n) in written.items()
        ]
        self._put("synthesis", synthesis=(rows, records.SYNTHESIS))

    def without_dev(self) -> None:
        self.queries(TRAIN, [judgment for judgment in JUDGED if judgment[0].startswith("q")])

    def tuned(self) -> None:
        """The base encoder as if it were stage 1's."""

        def write(ctx: StageContext) -> None:
            with ctx.out.directory("model") as folder:
                shutil.copytree(self.recipe.encoder.model, folder, dirs_exist_ok=True)

        self.run("distill", write, [])

    def preferences(
        self, pairs: Iterable[tuple[str, str, str]], orders: Iterable[tuple[str, list[str], list[float]]]
    ) -> None:
        """Pairs of query, better and worse passage; orders of query, passages best first and their grades."""
        chosen = [dict(zip(("query_id", "better_id", "worse_id"), pair, strict=True)) for pair in pairs]
        ranked = [dict(zip(("query_id", "passage_ids", "grades"), order, strict=True)) for order in orders]
        self._put("preferences", preferences=(chosen, records.PREFERENCE), orders=(ranked, records.ORDER))

    def change(self, **sections: dict[str, Any]) -> None:
        """Other values of the recipe, under the same key."""
        values = self.recipe.model_dump()
        for name, section in sections.items():
            values[name] |= section
        self.recipe = Recipe.model_validate(values)

    def hear(
        self, name: str, stage: Callable[[StageContext], None], inputs: Iterable[str]
    ) -> tuple[Artifact, list[str]]:
        """Run a stage; returns its artifact and what it said."""
        out, listener = ArtifactWriter(self.workspace, name, "0"), Listener()
        chosen = {each: self.finished[each] for each in inputs}
        stage(StageContext(self.recipe, chosen, out, self.workspace, listener))
        self.finished[name] = out.commit(**ABOUT)
        return self.finished[name], listener.messages
