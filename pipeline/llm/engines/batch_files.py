"""A folder of JSON-lines files, local or on an object store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyarrow import fs

from pipeline.recorded import numbered_rows
from pipeline.workspace import Workspace


class Folder:
    """Files of one kind."""

    def __init__(self, root: Workspace, *parts: str) -> None:
        self._root, self._parts = root, parts

    @property
    def uri(self) -> str:
        """As people write it."""
        base, _, options = self._root.uri.partition("?")
        return "/".join((base.rstrip("/"), *self._parts)) + (f"?{options}" if options else "")

    def _path(self, name: str) -> str:
        return self._root.path(*self._parts, name)

    def names(self, ending: str) -> list[str]:
        """Of its files, in order."""
        paths = self._root.list_files(*self._parts)
        return sorted(path.rsplit("/", 1)[-1] for path in paths if path.endswith(ending))

    def rows(self, name: str) -> Iterator[dict[str, Any] | None]:
        """JSON objects of a file's lines; None for a line that is none."""
        base, _, options = self.uri.partition("?")
        for _, row in numbered_rows(f"{base}/{name}" + (f"?{options}" if options else "")):
            yield row

    def read(self, name: str) -> bytes | None:
        return self._root.read_bytes(self._path(name))

    def write(self, name: str, content: bytes) -> None:
        """Whole or not at all."""
        self._root.write_bytes(self._path(name), content)

    def remove(self, name: str) -> None:
        """Also where there is none."""
        if self._root.filesystem.get_file_info(self._path(name)).type == fs.FileType.File:
            self._root.filesystem.delete_file(self._path(name))

    def rename(self, name: str, new: str) -> None:
        self.move(name, self, new)

    def move(self, name: str, to: Folder, new: str = "") -> None:
        """Under its name, or a new one. It is enough that another run has done so."""
        if self._root.is_local:  # an object store has no folders
            self._root.filesystem.create_dir(to._root.path(*to._parts), recursive=True)
        try:
            self._root.filesystem.move(self._path(name), to._path(new or name))
        except OSError:
            if to._root.filesystem.get_file_info(to._path(new or name)).type != fs.FileType.File:
                raise
