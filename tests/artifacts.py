"""Finished artifacts for one stage's test: some written by hand, some made by the real stages before it."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import records
from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.encoder import corpus as encode
from pipeline.index import build as index
from pipeline.lexical import stage as lexical
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.stage import StageContext
from pipeline.workspace import Workspace

ABOUT = {"inputs": {}, "section": {}, "code_version": "", "finished_at": "", "seconds": 0.0, "peak_memory_mb": 0.0}


class Shelf:
    """Artifacts by stage name."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.workspace = Workspace(recipe.workspace)
        self.finished: dict[str, Artifact] = {}

    def run(self, name: str, stage: Callable[[StageContext], None], inputs: Iterable[str]) -> Artifact:
        """Run a stage on what is on the shelf."""
        out = ArtifactWriter(self.workspace, name, "0")
        chosen = {each: self.finished[each] for each in inputs}
        stage(StageContext(self.recipe, chosen, out, self.workspace, Silent()))
        self.finished[name] = out.commit(**ABOUT)
        return self.finished[name]

    def corpus(self, passages: Sequence[dict[str, str]], duplicates: dict[str, str]) -> None:
        """Passages of passage_id, title and text; duplicates as passage id -> the passage it repeats."""
        rows = [{"source": "test", "start": None, "end": None, **passage} for passage in passages]
        same = [{"passage_id": one, "duplicate_of": other, "similarity": 1.0} for one, other in duplicates.items()]
        self._put("corpus", passages=(rows, records.PASSAGE), duplicates=(same, records.DUPLICATE))

    def queries(self, queries: Sequence[dict[str, str]], judgments: Sequence[tuple[str, str, int]]) -> None:
        """Queries of query_id and text, by default given ones for training."""
        rows = [{"split": "train", "kind": "given", **query} for query in queries]
        grades = [dict(zip(("query_id", "passage_id", "grade"), judgment, strict=True)) for judgment in judgments]
        self._put("queries", queries=(rows, records.QUERY), judgments=(grades, records.JUDGMENT))

    def words(self) -> None:
        """BM25 shards of the corpus."""
        self.run("words", lexical.run, ["corpus"])

    def base_index(self) -> None:
        """Encode and index the corpus with the recipe's encoder."""
        self.run("encode_base", encode.run_base, ["corpus"])
        self.run("index_base", index.run_base, ["encode_base"])

    def tuned_index(self, model: Path) -> None:
        """Take a model folder for the tuned encoder, and encode and index the corpus with it."""

        def distill(ctx: StageContext) -> None:
            with ctx.out.directory("model") as folder:
                shutil.copytree(model, folder, dirs_exist_ok=True)

        self.run("distill", distill, [])
        self.run("encode_tuned", encode.run_tuned, ["corpus", "distill"])
        self.run("index_tuned", index.run_tuned, ["encode_tuned"])

    def _put(self, stage: str, **tables: tuple[Sequence[dict[str, Any]], pa.Schema]) -> None:
        def write(ctx: StageContext) -> None:
            for name, (rows, schema) in tables.items():
                ctx.out.table(name, pa.Table.from_pylist(list(rows), schema=schema), schema)

        self.run(stage, write, [])
