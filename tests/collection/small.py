"""A corpus small enough to be published in every test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.collection.publish import publish
from pipeline.encoder.encode import Encoder
from pipeline.encoder.identity import EncoderIdentity, identify
from pipeline.encoder.model import load_model
from pipeline.encoder.systems import DenseSystem
from pipeline.recipe import Recipe
from pipeline.records import PASSAGE
from tests.artifacts import Shelf

WORDS = ["dough", "yeast", "flour", "oven", "crust", "salt", "sail", "mast", "anchor", "keel", "rudder", "tide"]
TEXTS = {f"p{n:02d}": f"{word} number {n}" for n, word in enumerate(WORDS)}
TEXTS |= {f"x{n:02d}": f"page {n * 7919 % 1000}" for n in range(20)}
FLAT: dict[str, object] = {"kind": "flat", "shards": 2}
BASE = DenseSystem("base", "index_base", None)


def table(texts: dict[str, str]) -> pa.Table:
    rows = [{"passage_id": i, "title": "", "text": text, "source": "test"} for i, text in texts.items()]
    return pa.Table.from_pylist(rows, schema=PASSAGE)


class Counting:
    """The real encoder, and how many texts it was given."""

    def __init__(self, recipe: Recipe) -> None:
        model = load_model(recipe.encoder)
        self.identity: EncoderIdentity = identify(model)
        self.encoder, self.texts = Encoder(model, "float32", 512), list[str]()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return self.encoder.encode_passages(texts)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        return self.encoder.encode_passages(texts)


def recipe_of(workspace: Path, encoder: Path, index: dict[str, object] = FLAT) -> Recipe:
    values = {
        "workspace": str(workspace),
        "corpus": {"path": "x"},
        "encoder": {"model": str(encoder), "dtype": "float32", "cpus_per_actor": 1},
        "lexical": {"shard_passages": 20},
        "index": index,
    }
    return Recipe.model_validate(values)


def publish_small(recipe: Recipe, name: str = "live") -> None:
    """Publish `TEXTS`, and delete the stages that they were made by: a collection outlives them."""
    shelf = Shelf(recipe)
    shelf.corpus([{"passage_id": i, "title": "", "text": text} for i, text in TEXTS.items()], {})
    shelf.words()
    shelf.base_index()
    publish(recipe, shelf.finished, BASE, name)
    shelf.workspace.delete_folder("stages")
