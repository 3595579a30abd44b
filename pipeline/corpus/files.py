"""The files of a corpus on a local disk or an object store: listed, opened, their errors explained."""

from __future__ import annotations

import errno
import gzip
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from pipeline.errors import RayrieverError

# An object store answers each read with a request.
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class CorpusFile:
    """One file: `name` is its path relative to corpus.path, `location` the whole of it for messages."""

    filesystem: fs.FileSystem
    path: str
    name: str
    size: int
    mtime_ns: int

    @property
    def location(self) -> str:
        local = isinstance(self.filesystem, fs.LocalFileSystem)
        return self.path if local else f"{self.filesystem.type_name}://{self.path}"

    @property
    def compressed(self) -> bool:
        return self.name.endswith(".gz")

    def open(self) -> BinaryIO:
        """Return the content as a buffered stream of bytes, decompressed when the name ends in .gz."""
        stored = self.filesystem.open_input_stream(self.path, compression=None)
        stream = cast(BinaryIO, io.BufferedReader(stored, _READ_BYTES))
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if self.compressed else stream

    def open_random_access(self) -> pa.NativeFile:
        """Return the file as it lies there, for formats that are read from their end."""
        return self.filesystem.open_input_file(self.path)

    @contextmanager
    def explained_errors(self) -> Iterator[None]:
        """Turn what goes wrong while reading into a RayrieverError that names the file and a remedy."""
        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise RayrieverError(
                f"corpus {self.location}: truncated, damaged or no gzip file ({error}). "
                "Fetch or compress it again, or take it out of corpus.path."
            ) from error
        except (pa.ArrowException, OSError) as error:
            raise RayrieverError(f"corpus {self.location}: cannot be read ({error}). {_remedy(error)}") from error


@dataclass(frozen=True)
class Listing:
    """What corpus.path stands for: its files sorted by name, and whether it was a single file."""

    location: str
    files: tuple[CorpusFile, ...]
    single: bool


def list_files(path: str) -> Listing:
    """Return the files behind a path, a glob (`*`, `?`, `[..]`, `**`) or a URI; hidden files are left out.

    In a URI `?` begins the options of the filesystem, so a glob there knows `*` only. Raises RayrieverError
    where nothing exists, nothing matches, or the filesystem cannot be reached.
    """
    try:
        return _list_uri(path) if "://" in path else _list_local(path)
    except UnicodeEncodeError as error:
        raise RayrieverError(f"corpus {path}: a file name is not UTF-8 ({error.object!a}). Rename it.") from error
    except pa.ArrowInvalid as error:
        raise RayrieverError(f"corpus {path}: not a URI that pyarrow knows ({error}). Correct it.") from error
    except OSError as error:
        raise RayrieverError(f"corpus {path}: cannot be listed ({error}). {_remedy(error)}") from error


def _list_local(path: str) -> Listing:
    absolute = str(Path(path).expanduser().absolute())
    if os.path.lexists(absolute) or not any(sign in absolute for sign in "*?["):
        return _list_at(fs.LocalFileSystem(), absolute, ())
    segments = absolute.split("/")
    fixed = next(i for i, segment in enumerate(segments) if any(sign in segment for sign in "*?["))
    return _list_at(fs.LocalFileSystem(), "/".join(segments[:fixed]) or "/", segments[fixed:])


def _list_uri(uri: str) -> Listing:
    address, separator, options = uri.partition("?")
    scheme, _, rest = address.partition("://")
    segments = rest.split("/")
    fixed = next((i for i, segment in enumerate(segments) if "*" in segment), len(segments))
    base = f"{scheme}://{quote('/'.join(segments[:fixed]), safe='/:%@~')}{separator}{options}"
    filesystem, root = fs.FileSystem.from_uri(base)
    return _list_at(filesystem, root.rstrip("/"), segments[fixed:])


def _list_at(filesystem: fs.FileSystem, root: str, pattern: Sequence[str]) -> Listing:
    shown = root if isinstance(filesystem, fs.LocalFileSystem) else f"{filesystem.type_name}://{root}"
    location = "/".join((shown.rstrip("/"), *pattern)) if pattern else shown
    info = filesystem.get_file_info(root)
    if info.type == fs.FileType.NotFound:
        raise RayrieverError(f"corpus {location}: there is no such file or folder. Correct corpus.path.")
    if info.type == fs.FileType.File and not pattern:
        return Listing(location, (_corpus_file(filesystem, info, info.base_name),), single=True)
    found = _walk(filesystem, root, None if "**" in pattern or not pattern else len(pattern))
    prefix = len(root.rstrip("/")) + 1
    named = [(each.path[prefix:], each) for each in found if each.type == fs.FileType.File]
    files = [
        _corpus_file(filesystem, each, name)
        for name, each in sorted(named, key=lambda pair: pair[0])
        if not _hidden(name) and (not pattern or _matches(name.split("/"), pattern))
    ]
    if not files:
        problem = "no file matches" if pattern else "the folder holds no files"
        raise RayrieverError(f"corpus {location}: {problem}. Correct corpus.path.")
    return Listing(location, tuple(files), single=False)


def _corpus_file(filesystem: fs.FileSystem, info: fs.FileInfo, name: str) -> CorpusFile:
    return CorpusFile(filesystem, info.path, name, info.size or 0, info.mtime_ns or 0)


def _walk(filesystem: fs.FileSystem, root: str, depth: int | None) -> list[fs.FileInfo]:
    if not isinstance(filesystem, fs.LocalFileSystem):
        found: list[fs.FileInfo] = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
        return found
    infos: list[fs.FileInfo] = filesystem.get_file_info(list(_walk_local(root, depth)))
    return infos


def _walk_local(root: str, depth: int | None) -> Iterator[str]:
    # pyarrow's own recursive listing follows a link to a parent folder forty times round.
    visited: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        level = folder.rstrip("/")[len(root.rstrip("/")) :].count("/") + 1
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        if depth is not None and level >= depth:
            folders.clear()
        yield from (f"{folder.rstrip('/')}/{name}" for name in names)


def _raise(error: OSError) -> None:
    raise error


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[skipped:], pattern[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _remedy(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        return "Give yourself the right to read it, or take it out of corpus.path."
    if isinstance(error, OSError) and error.errno is None:
        return "Check that it is whole, and for an object store the endpoint, the region and the credentials."
    return "Check that it is whole, or take it out of corpus.path."
