"""Files on this machine: links instead of copies, and the cache of what lies on object stores and hubs."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pyarrow import fs

from pipeline.workspace import explained_write_errors


def cache_folder() -> Path:
    """Where copies of what lies on object stores and hubs are kept on this machine."""
    return Path.home() / ".cache" / "rayriever"


def fetch_file(filesystem: fs.FileSystem, source: str, target: Path, check: Callable[[Path], None]) -> None:
    """Copy a file to this machine; readers see all of it or none of it, whoever else fetches it at the same moment.

    Args:
        check: is given the copy, which is not there where `source` is not. Raises for one that is not what it should
            be; it is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with explained_write_errors(str(target.parent)), suppress(FileNotFoundError):
            fs.copy_files(source, str(partial), source_filesystem=filesystem)
        check(partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Have the content of a file, never to be changed, under a second name that is not there yet."""
    try:
        os.link(source, target)
    except FileExistsError:  # another process of this machine was first, with the same content
        return
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
