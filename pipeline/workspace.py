"""Where a run's files live: a folder of any pyarrow filesystem, read and written whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pipeline.errors import RayrieverError


class Workspace:
    """A folder on a local disk or an object store. Cheap to construct again in a worker from its `uri`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri if "://" in uri else str(Path(uri).expanduser().absolute())
        self.filesystem, self.root = _open_filesystem(self.uri)
        self.is_local = isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, *parts: str) -> str:
        return "/".join((self.root.rstrip("/"), *parts))

    def check_writable(self) -> None:
        """Raise RayrieverError unless a file can be created, read back and removed here."""
        probe = self.path(".writable")
        with explained_write_errors(self.uri):
            self.filesystem.create_dir(self.root, recursive=True)
            self.write_bytes(probe, b"ok")
            self.filesystem.delete_file(probe)

    def read_bytes(self, path: str) -> bytes | None:
        """A file's content, or None where it is not there."""
        try:
            with self.filesystem.open_input_stream(path) as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write a file so that a reader sees all of it or none of it."""
        if self.is_local:  # an object store has no folders
            self.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        # An object store's PUT is atomic; a local file is, once renamed into place.
        target = f"{path}.{os.getpid()}.tmp" if self.is_local else path
        try:
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(content)
            if self.is_local:
                self.filesystem.move(target, path)
        except OSError:
            if self.is_local and os.path.exists(target):
                os.unlink(target)
            raise

    def write_table(self, path: str, table: pa.Table, rows_per_group: int | None = None) -> None:
        """Write one Parquet file so that a reader sees all of it or none of it."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=rows_per_group)
        self.write_bytes(path, sink.getvalue().to_pybytes())

    def list_files(self, *parts: str) -> list[str]:
        """Paths of the files below a folder, sorted; empty where the folder does not exist."""
        return [info.path for info in self.list_file_infos(*parts)]

    def list_file_infos(self, *parts: str) -> list[fs.FileInfo]:
        """What is known of the files below a folder, by path; empty where the folder does not exist."""
        selector = fs.FileSelector(self.path(*parts), allow_not_found=True, recursive=True)
        found = [info for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File]
        return sorted(found, key=lambda info: info.path)

    def list_folders(self, *parts: str) -> list[str]:
        """Names of the folders right below a folder; empty where it does not exist."""
        selector = fs.FileSelector(self.path(*parts), allow_not_found=True)
        return sorted(i.base_name for i in self.filesystem.get_file_info(selector) if i.type == fs.FileType.Directory)

    def size_bytes(self) -> int:
        return sum(info.size or 0 for info in self.list_file_infos())

    def delete_folder(self, *parts: str) -> None:
        path = self.path(*parts)
        if self.filesystem.get_file_info(path).type == fs.FileType.Directory:
            self.filesystem.delete_dir(path)


@contextmanager
def explained_write_errors(place: str) -> Iterator[None]:
    """Turn the operating system's refusals to write into one readable message."""
    try:
        yield
    except OSError as error:
        reason = _WRITE_ERRORS.get(error.errno or 0)
        text = str(error).split("\nFailed to apply UDF transform")[0]  # Ray Data's advice on retries
        if reason is None and "No space left" in text:
            reason = _WRITE_ERRORS[errno.ENOSPC]
        if reason is None and any(each in text for each in _REFUSALS):
            reason = _REFUSED
        if reason is None:
            raise
        raise RayrieverError(f"workspace {place}: {reason} ({text})") from error


# How object stores refuse, as pyarrow says it
_REFUSALS = ("ACCESS_DENIED", "HTTP status 403", "INVALID_ACCESS_KEY_ID", "SIGNATURE", "PERMISSION_DENIED")
_REFUSED = (
    "the object store refuses the credentials: they have expired, or may not do this. Renew them, then run the same "
    "command: what is finished is kept."
)
_NO_PERMISSION = "cannot be written. Change its permissions, or set `workspace` to a folder of yours."
_DISK_FULL = "the disk is full. Free space or move the workspace, then run the same command: finished stages are kept."
_WRITE_ERRORS = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _DISK_FULL,
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: _NO_PERMISSION,
    errno.ENOTDIR: _NO_PERMISSION,
    errno.EEXIST: _NO_PERMISSION,
}


def _open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    try:
        filesystem, root = fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise RayrieverError(f"workspace {uri}: not a local path or a URI that pyarrow knows: {error}") from error
    return filesystem, root
