"""A corpus folder that runs the corpus stage on its files, as the pipeline would."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.artifact import ArtifactWriter
from pipeline.corpus import stage
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.stage import Estimate, StageContext
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class Outcome:
    """What a run of the stage left behind."""

    folder: Path
    outcomes: dict[str, int]
    quarantined: list[dict[str, Any]]

    def rows(self, table: str) -> list[dict[str, Any]]:
        parts = sorted((self.folder / table).glob("*.parquet"))
        return [row for part in parts for row in pq.read_table(part).to_pylist()]

    def ids(self) -> list[str]:
        return [row["passage_id"] for row in self.rows("passages")]

    def reasons(self) -> list[str]:
        return [row["reason"] for row in self.quarantined]


@dataclass(frozen=True)
class Corpus:
    """A folder to put files in, and the stage to run on it or on any other path."""

    folder: Path
    workspace: Workspace

    @staticmethod
    def passage(number: int, **other: object) -> dict[str, object]:
        return {"_id": f"p{number}", "title": f"Title {number}", "text": f"text of passage {number}", **other}

    def jsonl(self, name: str, rows: Iterable[object]) -> Path:
        """Write objects as JSON Lines, strings as they are."""
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    def recipe(self, path: Path | str | None = None, **section: Any) -> Recipe:
        """A recipe for the folder or `path`; bad rows are accepted unless `section` says otherwise."""
        return Recipe.model_validate({"corpus": {"path": str(path or self.folder), "max_bad_share": 1.0, **section}})

    def run(self, path: Path | str | None = None, **section: Any) -> Outcome:
        out = ArtifactWriter(self.workspace, "corpus", "k")
        stage.run(StageContext(self.recipe(path, **section), {}, out, self.workspace, Silent()))
        return Outcome(Path(out.folder), dict(out.outcomes), out.quarantined)

    def estimate(self, path: Path | str | None = None, **section: Any) -> Estimate:
        return stage.estimate(self.recipe(path, **section), {})


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    folder = tmp_path / "corpus"
    folder.mkdir()
    return Corpus(folder, Workspace(str(tmp_path / "workspace")))
