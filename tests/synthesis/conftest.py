"""Train queries, and the synthesis stage to run on them with recorded answers or an LLM server."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.records import JUDGMENT, QUERY
from pipeline.stage import StageContext
from pipeline.synthesis import stage
from pipeline.workspace import Workspace
from tests.artifacts import ABOUT

QUERIES = {"q1": "why does bread rise", "q2": "what is a keel", "q3": "how far is the moon", "q4": "do trees sleep"}


@dataclass(frozen=True)
class Outcome:
    """What a run of the stage left behind."""

    rows: dict[str, dict[str, Any]]  # by query id
    outcomes: dict[str, int]
    quarantined: list[tuple[int, str | None, str]]  # line, row id, reason


@dataclass(frozen=True)
class Synthesis:
    """Four train queries (q4 is a crop) and one of dev, and the stage to run on them."""

    folder: Path
    queries: Artifact

    def file(self, rows: Iterable[object], name: str = "answers.jsonl") -> str:
        """Write objects as JSON lines, strings as they are."""
        path = self.folder / name
        path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows), encoding="utf-8")
        return str(path)

    def recipe(self, llm: dict[str, Any] | None = None, max_bad_share: float = 1.0, **section: Any) -> Recipe:
        corpus = {"path": str(self.folder), "max_bad_share": max_bad_share}
        return Recipe.model_validate({"corpus": corpus, "llm": llm or {}, "synthesis": section})

    def run(self, recipe: Recipe) -> Outcome:
        workspace = Workspace(str(self.folder / "workspace"))
        out = ArtifactWriter(workspace, "synthesis", "k")
        stage.run(StageContext(recipe, {"queries": self.queries}, out, workspace, Silent()))
        rows = out.commit(**ABOUT).table("synthesis").to_pylist()
        quarantined = [(row["line"], row["row_id"], row["reason"]) for row in out.quarantined]
        return Outcome({row["query_id"]: row for row in rows}, dict(out.outcomes), quarantined)


@pytest.fixture
def synthesis(tmp_path: Path) -> Synthesis:
    out = ArtifactWriter(Workspace(str(tmp_path / "workspace")), "queries", "k")
    rows = [{"query_id": i, "text": t, "split": "train", "kind": "given"} for i, t in QUERIES.items()]
    rows[-1]["kind"] = "crop"
    rows.append({"query_id": "d1", "text": "a dev query", "split": "dev", "kind": "given"})
    out.table("queries", pa.Table.from_pylist(rows, schema=QUERY), QUERY)
    out.table("judgments", JUDGMENT.empty_table(), JUDGMENT)
    return Synthesis(tmp_path, out.commit(**ABOUT))
