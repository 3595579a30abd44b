"""Whether two runs have made the same artifact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipeline.evaluation.report import LlmUse, Report
from pipeline.workspace import Artifact

_MEASURED = {"tokens_per_second"}  # columns that no two runs have alike
_REPORT, _RENDERED = "report.json", {"report.md"}  # the one says what the other shows; both tell times


def differences(quiet: Artifact, other: Artifact) -> list[str]:
    """Names of tables, folders' files and counts that are not the same; rows and numbers are compared exactly."""
    first, second = quiet.manifest, other.manifest
    tables = sorted(first.tables.keys() | second.tables.keys())
    found = [f"table {name}" for name in tables if _rows(quiet, name) != _rows(other, name)]
    for name in sorted(first.directories.keys() | second.directories.keys()):
        files = [_files(each, name) for each in (quiet, other)]
        changed = sorted(path for path in files[0].keys() | files[1].keys() if files[0].get(path) != files[1].get(path))
        found += [f"file {name}/{path}" for path in changed]
    if first.outcomes != second.outcomes:
        found.append("outcomes")
    return found


def _files(artifact: Artifact, directory: str) -> dict[str, Any]:
    """What stands for the content of each."""
    digests: dict[str, Any] = dict(artifact.manifest.directories.get(directory, {}))
    if _REPORT in digests:
        report = Report.from_json(artifact.file(directory, _REPORT).read_text())
        digests[_REPORT] = replace(report, stages=(), llm=LlmUse(0, 0, 0, 0, report.llm.outcomes))
    return {path: content for path, content in digests.items() if path not in _RENDERED}


def _rows(artifact: Artifact, table: str) -> list[dict[str, Any]] | None:
    if table not in artifact.manifest.tables:
        return None
    rows: pa.Table = artifact.table(table)
    made = rows.select([name for name in rows.column_names if name not in _MEASURED])
    return sorted(made.to_pylist(), key=repr)
