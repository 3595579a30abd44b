"""A small recipe to which things happen: it ends with what a quiet run makes, and a difference would be seen."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.drill.cases import CASES
from cluster.drill.compare import differences
from cluster.drill.drill import Drill, Outcome, chosen
from cluster.drill.project import write_project
from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.errors import RayrieverError
from pipeline.recipe import load_recipe
from pipeline.stages import stages_of
from pipeline.workspace import Workspace
from tests.artifacts import ABOUT


def test_every_stage_with_workers_has_a_case(tmp_path: Path):
    write_project(tmp_path, "http://127.0.0.1:9/v1")
    stages = {stage.name for stage in stages_of(load_recipe(tmp_path / "recipe.yaml"))}
    killed_in = {case.stage for case in CASES if case.name.startswith("node-")}
    assert stages - killed_in == {"corpus"}, "which the run's own process reads"
    assert {case.stage for case in CASES} <= stages
    with pytest.raises(RayrieverError, match="no case 'flood'; there are node-words, "):
        chosen(["flood"])


def test_an_outcome_passes_only_with_the_same_artifact_and_without_help_where_none_is_needed():
    fine = Outcome("a", "b", "c", ended="SUCCEEDED", submissions=1)
    assert fine.passed
    worse = (replace(fine, differences=("table rows",)), replace(fine, expected=False), replace(fine, stored_again=1))
    untried = (replace(fine, skipped="no disk"), replace(fine, failed="too late"))
    assert not any(each.passed for each in (*worse, *untried))


def test_what_differs_is_named(tmp_path: Path):
    """A comparison that sees nothing would pass every drill."""

    def artifact(name: str, reason: str, text: str, outcome: int, seconds: float = 1.0) -> Artifact:
        out = ArtifactWriter(Workspace(str(tmp_path / name)), "corpus", "0")
        for row in (1, 2) if name == "quiet" else (2, 1):  # rows have no order
            out.quarantine("file", row, None, reason)
        with out.directory("model") as folder:
            (folder / "weights").write_text(text)
            report = {"gate": text, "reranking": {"rows": [{"depth": 5, "milliseconds": seconds}]}}
            (folder / "report.json").write_text(json.dumps(report))
            (folder / "report.md").write_text(f"{text} in {seconds} ms")
        out.outcomes["verified"] = outcome
        return out.commit(**ABOUT)

    quiet = artifact("quiet", "torn", "1.0", 5)
    assert differences(quiet, artifact("same", "torn", "1.0", 5, seconds=2.0)) == []
    other = artifact("other", "empty", "1.1", 6)
    assert differences(quiet, other) == ["table quarantine", "file model/report.json", "file model/weights", "outcomes"]


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    with Drill(tmp_path_factory.mktemp("drill")) as drill:
        drill.run_quietly(until="distill")
        yield drill


@pytest.mark.cluster
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["node-synthesis", "node-index_base", "node-distill"])
def test_a_run_ends_with_what_a_quiet_one_makes(drill: Drill, name: str):
    """With no stored answer asked for again; all cases are in `rayriever drill`."""
    outcome = drill.perform(chosen([name])[0])
    assert outcome.passed, outcome
    assert len(outcome.said) < 1000, "a traceback is no message"
