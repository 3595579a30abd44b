"""Read files of recorded answers: JSON lines on a local disk or an object store, gzipped or not."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, cast

import pyarrow as pa
from pyarrow import fs

from pipeline.errors import RayrieverError

# An object store answers each read with a request.
_READ_BYTES = 1 << 20


def numbered_rows(uri: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Line number, from 1, and JSON object of every line that is not blank; None where the line is no JSON object.

    Raises RayrieverError when the file is not there or cannot be read to its end.
    """
    filesystem, info = _locate(uri)
    try:
        stored = filesystem.open_input_stream(info.path, compression=None)
        buffered = cast(BinaryIO, io.BufferedReader(stored, _READ_BYTES))
        with cast(BinaryIO, gzip.GzipFile(fileobj=buffered)) if info.path.endswith(".gz") else buffered as stream:
            for number, line in enumerate(stream, start=1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if line.strip():
                    yield number, json_object(line)
    except (EOFError, zlib.error, OSError) as error:
        raise RayrieverError(f"{uri}: cannot be read to its end ({error}). Restore it from its source.") from error


def file_fingerprint(uri: str) -> list[Any]:
    """`[name, size, mtime_ns]`, for stage keys. Raises RayrieverError when there is no such file."""
    _, info = _locate(uri)
    return [info.base_name, info.size, info.mtime_ns]


def file_name(uri: str) -> str:
    """The name without folders and the options of a URI."""
    return uri.split("?")[0].rsplit("/", 1)[-1]


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a JSON value is a finite number. Python reads whole numbers of any length, beyond what a float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_unicode(text: str) -> bool:
    """Whether Parquet can hold it: JSON may spell half of a surrogate pair, which is no character."""
    return text.encode(errors="replace").decode() == text


def json_object(line: bytes) -> dict[str, Any] | None:
    """The object that a line spells, or None where it spells none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _locate(uri: str) -> tuple[fs.FileSystem, fs.FileInfo]:
    try:
        filesystem, path = fs.FileSystem.from_uri(uri if "://" in uri else str(Path(uri).expanduser().absolute()))
        info = filesystem.get_file_info(path)
    except (pa.ArrowException, OSError) as error:
        raise RayrieverError(f"{uri}: cannot be reached ({error}). Give a local path or a URI of a file.") from error
    if info.type != fs.FileType.File:
        raise RayrieverError(f"{uri}: there is no such file. Correct the path, or put the file there.")
    return filesystem, info
