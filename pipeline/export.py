"""Files of JSON lines for other programs: they appear whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from pyarrow import fs

from pipeline.errors import RayrieverError
from pipeline.workspace import Workspace


def write_row(stream: TextIO, row: object) -> None:
    """One JSON line."""
    stream.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def new_file(path: str) -> Iterator[TextIO]:
    """A text file that appears under `path` once it is whole; gzipped where its name ends in .gz."""
    place = Workspace(path)
    folder = os.path.dirname(place.root) if place.is_local else None
    try:
        if folder:
            os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
            part = f"{temporary}/part"
            compressed = place.root.endswith(".gz")
            with gzip.open(part, "wt", encoding="utf-8") if compressed else open(part, "w", encoding="utf-8") as stream:
                yield stream
            if place.is_local:
                os.replace(part, place.root)
            else:
                fs.copy_files(part, place.root, destination_filesystem=place.filesystem)
    except OSError as error:
        raise RayrieverError(f"export to {path}: cannot be finished ({error}). Nothing was written there.") from error
