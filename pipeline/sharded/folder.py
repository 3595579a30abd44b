"""A folder of shards on the workspace's filesystem: files with checksums, and generations that name those that count.

`generation-000001.json`, written last, lists the shards and their files. A later generation has a higher number; the
files of an earlier one stay, so that whoever reads it goes on reading it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pyarrow import fs

from pipeline.artifact import Artifact
from pipeline.digest import sha256
from pipeline.errors import RayrieverError
from pipeline.local_files import cache_folder, fetch_file, link_or_copy
from pipeline.workspace import Workspace, explained_write_errors

_GENERATION = re.compile(r"generation-(\d{6})\.json")
_NOTE = ".built.json"
# What shards hold
VECTORS, WORDS, TERMS, PASSAGES = "vectors", "words", "terms", "passages"


@dataclass(frozen=True)
class File:
    """A file of the folder and what it must hold."""

    path: str  # relative to the folder
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardFiles:
    """One shard: its number of rows and its files by role, such as index, ids, vectors."""

    rows: int
    files: Mapping[str, File]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ShardFiles:
        return cls(values["rows"], {role: File(**file) for role, file in values["files"].items()})


@dataclass(frozen=True)
class Generation:
    """What a reader of the folder reads: shards, and what their makers say about them."""

    number: int
    about: Mapping[str, Any]
    shards: Mapping[str, tuple[ShardFiles, ...]]  # by what they hold: VECTORS, WORDS, TERMS, PASSAGES
    extra: Mapping[str, File] = field(default_factory=dict)  # files that all shards of a kind share

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files())

    def files(self) -> list[File]:
        """Every file that it needs."""
        every = [file for shards in self.shards.values() for shard in shards for file in shard.files.values()]
        return [*every, *self.extra.values()]

    def rows(self, kind: str) -> int:
        """Rows of the shards of a kind, deleted ones among them."""
        return sum(shard.rows for shard in self.shards[kind])


def generation_file(number: int) -> str:
    return f"generation-{number:06d}.json"


@dataclass(frozen=True)
class ShardFolder:
    """A folder by its workspace and its path there; cheap to construct again in a worker."""

    uri: str  # of the workspace
    path: str

    @classmethod
    def of(cls, artifact: Artifact, directory: str) -> ShardFolder:
        """The folder of that name of a finished stage."""
        return cls(artifact.workspace.uri, f"{artifact.folder}/{directory}")

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.uri)

    @property
    def relative(self) -> tuple[str, ...]:
        """The folders that lead to it from the workspace."""
        root = self.workspace.path("").rstrip("/")
        return tuple(self.path[len(root) + 1 :].split("/"))

    def generations(self) -> list[int]:
        """Numbers of the generations, ascending."""
        workspace = self.workspace
        selector = fs.FileSelector(self.path, allow_not_found=True)
        names = [info.base_name for info in workspace.filesystem.get_file_info(selector)]
        return sorted(int(match[1]) for match in map(_GENERATION.fullmatch, names) if match)

    def current(self) -> Generation:
        """The newest generation. Raises RayrieverError where there is none or it cannot be read."""
        numbers = self.generations()
        if not numbers:
            raise RayrieverError(f"{self.path}: holds no index; build it first.")
        return self.generation(numbers[-1])

    def generation(self, number: int) -> Generation:
        path = f"{self.path}/{generation_file(number)}"
        content = self.workspace.read_bytes(path)
        if content is None:
            raise RayrieverError(f"{path}: is not there.")
        try:
            values = json.loads(content)
            shards = {kind: tuple(map(ShardFiles.of, of_kind)) for kind, of_kind in values["shards"].items()}
            extra = {name: File(**file) for name, file in values["extra"].items()}
            return Generation(values["number"], values["about"], shards, extra)
        except (ValueError, TypeError, KeyError) as error:
            raise RayrieverError(
                f"{path}: not a generation of this version ({error!r}). Build the index again."
            ) from error

    def commit(self, generation: Generation) -> dict[str, str]:
        """From here on readers that open the folder read this generation; all its files must be there.

        Returns the checksum of every file by its path.
        """
        path = f"{self.path}/{generation_file(generation.number)}"
        workspace = self.workspace
        content = json.dumps(asdict(generation), indent=1).encode()
        try:
            with explained_write_errors(self.uri):
                _create(workspace, path, content)
        except FileExistsError as error:
            raise RayrieverError(f"{path}: is there already; somebody else writes to this index. Try again.") from error
        own = {generation_file(generation.number): hashlib.sha256(content).hexdigest()}
        return {file.path: file.sha256 for file in generation.files()} | own

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A local folder for unfinished files, on the same disk as the shards where these are local."""
        parent = self.path if self.workspace.is_local else None
        with explained_write_errors(self.uri):
            if parent is not None:
                Path(parent).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="unfinished-", dir=parent, ignore_cleanup_errors=True) as temporary:
                yield Path(temporary)

    def add(self, local: Path, path: str) -> File:
        """Move a local file into the folder; a reader sees all of it or none of it."""
        workspace, target = self.workspace, f"{self.path}/{path}"
        file = File(path, local.stat().st_size, sha256(local))
        with explained_write_errors(self.uri):
            if not workspace.is_local:
                fs.copy_files(str(local), target, destination_filesystem=workspace.filesystem)
                local.unlink()
                return file
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            if os.stat(local).st_dev != os.stat(Path(target).parent).st_dev:
                fs.copy_files(str(local), f"{target}.tmp")
                local.unlink()
                local = Path(f"{target}.tmp")
            os.replace(local, target)
        return file

    def add_shard(self, rows: int, name: str, local: Mapping[str, Path]) -> ShardFiles:
        """Move the files of a shard, by role, into the folder."""
        return ShardFiles(
            rows, {role: self.add(path, f"{name}{''.join(path.suffixes)}") for role, path in local.items()}
        )

    def note(self, name: str, shard: ShardFiles) -> ShardFiles:
        """Remember that the shard of that name is complete, for a build that goes on after a kill: see `noted`."""
        with explained_write_errors(self.uri):
            self.workspace.write_bytes(f"{self.path}/{name}{_NOTE}", json.dumps(asdict(shard)).encode())
        return shard

    def noted(self, name: str) -> ShardFiles | None:
        """The shard of that name that an earlier, interrupted build has finished; None where it has not."""
        content = self.workspace.read_bytes(f"{self.path}/{name}{_NOTE}")
        if content is None:
            return None
        shard = ShardFiles.of(json.loads(content))
        infos = self.workspace.filesystem.get_file_info([f"{self.path}/{f.path}" for f in shard.files.values()])
        whole = all(info.size == file.bytes for info, file in zip(infos, shard.files.values(), strict=True))
        return shard if whole else None

    def take_over(self, source: ShardFolder, files: Iterable[File]) -> None:
        """Move files from another folder of the same filesystem here."""
        workspace = self.workspace
        with explained_write_errors(self.uri):
            for path in (file.path for file in files):
                target = f"{self.path}/{path}"
                if workspace.is_local:
                    workspace.filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
                workspace.filesystem.move(f"{source.path}/{path}", target)

    def copy_from(self, source: ShardFolder, files: Iterable[File], prefix: str) -> dict[str, File]:
        """Copy files of another folder here under names with a prefix; on one disk they become links.

        Returns each file's copy by the path it had.
        """
        copies = {}
        for file in files:
            copies[file.path] = replace(file, path=f"{prefix}{file.path}")
            origin, target = f"{source.path}/{file.path}", f"{self.path}/{prefix}{file.path}"
            with explained_write_errors(self.uri):
                _copy(source.workspace, origin, self.workspace, target)
        return copies

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files of the folder; those that are not there are no error."""
        filesystem = self.workspace.filesystem
        for info in filesystem.get_file_info([f"{self.path}/{path}" for path in paths]):
            if info.type == fs.FileType.File:
                filesystem.delete_file(info.path)

    def fetch(self, files: Iterable[File]) -> list[Path]:
        """Local paths of the files, checked; from an object store they are copied into the cache once.

        Raises RayrieverError when one is missing or is not what was written.
        """
        return [self._fetch(file) for file in files]

    def _fetch(self, file: File) -> Path:
        workspace, source = self.workspace, f"{self.path}/{file.path}"
        if workspace.is_local:
            _check(Path(source), file, source)
            return Path(source)
        # By content: generations share files, and two machines of one user their cache.
        cached = cache_folder() / "shards" / f"{file.sha256}{''.join(Path(file.path).suffixes)}"
        if not (cached.exists() and cached.stat().st_size == file.bytes and sha256(cached) == file.sha256):
            fetch_file(workspace.filesystem, source, cached, lambda local: _check(local, file, source))
        return cached


def _create(workspace: Workspace, path: str, content: bytes) -> None:
    """Write a file that is not there yet, whole. Raises FileExistsError when it is.

    On an object store two writers at the same moment can both succeed; the later one stays.
    """
    if workspace.read_bytes(path) is not None:
        raise FileExistsError(path)
    if not workspace.is_local:
        workspace.write_bytes(path, content)
        return
    own = f"{path}.{uuid.uuid4().hex}"
    workspace.write_bytes(own, content)
    try:
        os.link(own, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(own, path)
    finally:
        os.unlink(own)


def _copy(source: Workspace, origin: str, destination: Workspace, target: str) -> None:
    if not (source.is_local and destination.is_local):
        fs.copy_files(
            origin, target, source_filesystem=source.filesystem, destination_filesystem=destination.filesystem
        )
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).unlink(missing_ok=True)
    link_or_copy(Path(origin), Path(target))  # files of shards are never changed
    os.utime(target)  # as new as a copy would be: old files that no generation names are taken for leftovers


def _check(local: Path, file: File, shown: str) -> None:
    if not local.exists():
        raise RayrieverError(f"{shown}: is missing. Build the index again.")
    size = local.stat().st_size
    if size != file.bytes:
        raise RayrieverError(f"{shown}: has {size:,} bytes instead of {file.bytes:,}. Build the index again.")
    if sha256(local) != file.sha256:
        raise RayrieverError(f"{shown}: its checksum is not that of the index's manifest. Build the index again.")
