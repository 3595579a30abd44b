"""Whether two runs have made the same artifact."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from pipeline.artifact import Artifact

# Columns, and fields of a report, that no two runs have alike: times, and how often the LLM was asked
_MEASURED = {"tokens_per_second", "milliseconds", "stages", "requests_sent", "answered", "tokens_in", "tokens_out"}
_REPORT, _RENDERED = "report.json", {"report.md"}  # the second shows what the first says


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
        digests[_REPORT] = _lasting(json.loads(artifact.file(directory, _REPORT).read_text()))
    return {path: content for path, content in digests.items() if path not in _RENDERED}


def _rows(artifact: Artifact, table: str) -> list[dict[str, Any]] | None:
    if table not in artifact.manifest.tables:
        return None
    rows: pa.Table = artifact.table(table)
    return sorted(_lasting(rows.to_pylist()), key=repr)


def _lasting(value: Any) -> Any:
    """Without what is measured, at any depth."""
    if isinstance(value, dict):
        return {key: _lasting(each) for key, each in value.items() if key not in _MEASURED}
    return [_lasting(each) for each in value] if isinstance(value, list) else value
