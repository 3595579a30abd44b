"""What a stage leaves behind: Parquet tables and folders, committed by a manifest.

Layout: `stages/STAGE/KEY/ATTEMPT/` holds a stage's tables and folders; `stages/STAGE/KEY/manifest.json`, written last,
names the attempt that counts. Other attempts did not finish: they are never read, and the next one removes them.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pipeline import records
from pipeline.digest import sha256
from pipeline.errors import RayrieverError
from pipeline.local_files import cache_folder, fetch_file
from pipeline.workspace import Workspace

MANIFEST = "manifest.json"
_ROWS_PER_BATCH = 32_768


@dataclass(frozen=True)
class TableEntry:
    """A table in a manifest: where its Parquet parts lie, relative to the artifact, and what they hold."""

    parts: list[str]
    rows: int
    columns: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """What a finished stage left behind and how it came to be."""

    stage: str
    key: str
    attempt: str
    inputs: dict[str, str]  # stage name -> identity of its artifact
    section: dict[str, Any]  # the recipe values the result depends on
    tables: dict[str, TableEntry]
    directories: dict[str, dict[str, str]]  # name -> {relative file: sha256}
    outcomes: dict[str, int]  # counts of what happened to rows and answers
    quarantined: int
    code_version: str
    finished_at: str  # ISO 8601, UTC
    seconds: float
    peak_memory_mb: float  # private memory of the driver and its children on this machine
    # requests, tokens_in, tokens_cached, tokens_out of the answers it used, and what was foreseen of these
    llm: dict[str, int] = field(default_factory=dict)
    llm_foreseen: dict[str, int] = field(default_factory=dict)
    spilled_mb: float = 0.0  # that Ray wrote to disks for want of memory
    # seconds from its start, and the cluster's nodes by group from then on
    nodes: list[tuple[float, dict[str, int]]] = field(default_factory=list)

    @property
    def place(self) -> tuple[str, str]:
        """Stage and key: with them any worker finds the artifact."""
        return self.stage, self.key

    @property
    def identity(self) -> str:
        """Tells this artifact from one that a forced rerun made under the same key."""
        return f"{self.key}/{self.attempt}"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        values = json.loads(text)
        values["tables"] = {name: TableEntry(**entry) for name, entry in values["tables"].items()}
        values["nodes"] = [(seconds, counts) for seconds, counts in values.get("nodes", [])]
        return cls(**values)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


class Artifact:
    """A finished stage, to be read."""

    def __init__(self, workspace: Workspace, manifest: Manifest) -> None:
        self.workspace = workspace
        self.manifest = manifest
        self.folder = workspace.path("stages", manifest.stage, manifest.key, manifest.attempt)

    @classmethod
    def find(cls, workspace: Workspace, stage: str, key: str) -> Artifact | None:
        """The finished artifact, or None where the stage never finished under this key."""
        path = workspace.path("stages", stage, key, MANIFEST)
        text = workspace.read_bytes(path)
        if text is None:
            return None
        try:
            return cls(workspace, Manifest.from_json(text.decode()))
        except (ValueError, TypeError, KeyError) as error:
            raise RayrieverError(
                f"{path}: not a manifest of this version ({error}). Delete it to run {stage} again."
            ) from error

    def parts(self, table: str) -> list[str]:
        """Paths of the table's Parquet parts on the workspace's filesystem."""
        return [f"{self.folder}/{part}" for part in self.manifest.tables[table].parts]

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        return pq.ParquetDataset(self.parts(name), filesystem=self.workspace.filesystem).read(columns=columns)

    def batches(self, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The table in pieces of at most some ten thousand rows: for tables larger than memory."""
        for part in self.parts(name):
            with self.workspace.filesystem.open_input_file(part) as stream:
                for batch in pq.ParquetFile(stream).iter_batches(_ROWS_PER_BATCH, columns=columns):
                    yield pa.Table.from_batches([batch])

    def rows(self, table: str) -> int:
        return self.manifest.tables[table].rows

    def directory(self, name: str) -> Path:
        """Local path of a folder, its files checked; from an object store they are fetched into the cache once."""
        for relative in self.manifest.directories[name]:
            self.file(name, relative)
        return self._local_folder(name)

    def file(self, directory: str, relative: str) -> Path:
        """Local path of one file of a folder. Raises RayrieverError when its checksum is not the manifest's."""
        target, source = self._local_folder(directory) / relative, f"{self.folder}/{directory}/{relative}"
        checksum = self.manifest.directories[directory][relative]

        def is_whole(local: Path) -> bool:
            return local.exists() and sha256(local) == checksum

        def check(local: Path) -> None:
            if not is_whole(local):
                raise RayrieverError(
                    f"{self.manifest.stage}: {source} is not what this stage wrote (missing or changed). "
                    f"Rerun with --from {self.manifest.stage}."
                )

        if self.workspace.is_local:
            check(target)
        elif not is_whole(target):
            fetch_file(self.workspace.filesystem, source, target, check)
        return target

    def _local_folder(self, name: str) -> Path:
        if self.workspace.is_local:
            return Path(self.folder) / name
        return cache_folder() / self.manifest.identity / name


@dataclass
class ArtifactWriter:
    """An artifact in the making; nothing of it is visible to readers before `commit`.

    Args:
        made_of: stands for all that its parts depend on. An attempt of the same that did not finish is gone on with:
            its parts are there already (`part_names`). None: what did not finish is removed.
    """

    workspace: Workspace
    stage: str
    key: str
    made_of: str | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    llm: Counter[str] = field(default_factory=Counter)  # see Manifest
    _tables: dict[str, TableEntry] = field(default_factory=dict)
    _directories: dict[str, dict[str, str]] = field(default_factory=dict)
    _quarantine: list[dict[str, Any]] = field(default_factory=list)
    _after_commit: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        finished = Artifact.find(self.workspace, self.stage, self.key)
        kept = {finished.manifest.attempt} if finished else set()
        self.attempt = self._unfinished(kept) or "-".join([*filter(None, [self.made_of]), uuid.uuid4().hex[:8]])
        self.folder = self.workspace.path("stages", self.stage, self.key, self.attempt)
        self._remove_attempts({self.attempt} | kept)

    def _unfinished(self, finished: set[str]) -> str | None:
        if self.made_of is None:
            return None
        attempts = set(self.workspace.list_folders("stages", self.stage, self.key)) - finished
        return next((each for each in sorted(attempts) if each.startswith(f"{self.made_of}-")), None)

    def table(self, name: str, rows: pa.Table | Iterable[pa.Table], schema: pa.Schema) -> int:
        """Write a table in one part per element of `rows`; returns the number of rows."""
        parts, count = [], 0
        for number, part in enumerate([rows] if isinstance(rows, pa.Table) else rows):
            relative = f"{name}/part-{number:05d}.parquet"
            self.workspace.write_table(f"{self.folder}/{relative}", part.cast(schema))
            parts.append(relative)
            count += part.num_rows
        if not parts:
            return self.table(name, schema.empty_table(), schema)
        self._tables[name] = TableEntry(parts, count, {f.name: str(f.type) for f in schema})
        return count

    def adopt_parts(self, name: str, schema: pa.Schema) -> int:
        """Register the Parquet parts that workers wrote below `part_folder(name)`; returns the number of rows."""
        relative = [f"{name}/{part}" for part in self.part_names(name)]
        paths = [f"{self.folder}/{part}" for part in relative]
        count: int = sum(pq.read_metadata(p, filesystem=self.workspace.filesystem).num_rows for p in paths)
        self._tables[name] = TableEntry(relative, count, {f.name: str(f.type) for f in schema})
        return count

    def parts(self, name: str) -> list[str]:
        """Paths of the parts of a table written so far, for workers of the same stage."""
        return [f"{self.folder}/{part}" for part in self._tables[name].parts]

    def part_names(self, name: str) -> list[str]:
        """Of the Parquet parts that workers have written below `part_folder(name)`, sorted."""
        folder = self.part_folder(name)
        files = self.workspace.list_files("stages", self.stage, self.key, self.attempt, name)
        return [path[len(folder) + 1 :] for path in files if path.endswith(".parquet")]

    def part_rows(self, name: str, part: str) -> int | None:
        """Rows of such a part; None where it cannot be read, as after a machine that lost its power."""
        try:
            metadata = pq.read_metadata(f"{self.part_folder(name)}/{part}", filesystem=self.workspace.filesystem)
        except (OSError, pa.ArrowInvalid):
            return None
        rows: int = metadata.num_rows
        return rows

    def part_folder(self, name: str) -> str:
        return f"{self.folder}/{name}"

    @contextmanager
    def directory(self, name: str) -> Iterator[Path]:
        """A local folder to fill; on leaving, its files become part of the artifact, with checksums."""
        if self.workspace.is_local:
            local = Path(self.folder) / name
            local.mkdir(parents=True, exist_ok=True)
            yield local
            self._register(name, local)
            return
        with tempfile.TemporaryDirectory(prefix="rayriever-") as temporary:
            local = Path(temporary)
            yield local
            self._register(name, local)
            fs.copy_files(temporary, f"{self.folder}/{name}", destination_filesystem=self.workspace.filesystem)

    def _register(self, name: str, local: Path) -> None:
        files = sorted(p for p in local.rglob("*") if p.is_file())
        self._directories[name] = {str(p.relative_to(local)): sha256(p) for p in files}

    def adopt_files(self, name: str, digests: dict[str, str]) -> None:
        """Register files that workers wrote below `part_folder(name)`: relative path -> sha256."""
        self._directories[name] = dict(sorted(digests.items()))

    def quarantine(self, source: str, line: int | None, row_id: str | None, reason: str) -> None:
        """Set a row aside: it is not used, it is counted, and `quarantine.parquet` says where it came from."""
        self._quarantine.append({"source": source, "line": line, "row_id": row_id, "reason": reason})

    @property
    def quarantined(self) -> list[dict[str, Any]]:
        return self._quarantine

    def write_quarantine(self) -> None:
        self.table("quarantine", pa.Table.from_pylist(self._quarantine, schema=records.QUARANTINE), records.QUARANTINE)

    def _remove_attempts(self, but: set[str]) -> None:
        for attempt in self.workspace.list_folders("stages", self.stage, self.key):
            if attempt not in but:
                self.workspace.delete_folder("stages", self.stage, self.key, attempt)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Something to do once nothing can be lost any more, such as deleting checkpoints."""
        self._after_commit.append(action)

    def commit(self, **about: Any) -> Artifact:
        """Write the quarantine and then the manifest: from here on the artifact exists."""
        self.write_quarantine()
        manifest = Manifest(
            stage=self.stage,
            key=self.key,
            attempt=self.attempt,
            tables=self._tables,
            directories=self._directories,
            outcomes=dict(sorted(self.outcomes.items())),
            quarantined=len(self._quarantine),
            llm=dict(self.llm),
            **about,
        )
        path = self.workspace.path("stages", self.stage, self.key, MANIFEST)
        self.workspace.write_bytes(path, manifest.to_json().encode())
        self._remove_attempts({self.attempt})
        for action in self._after_commit:
            action()
        return Artifact(self.workspace, manifest)
