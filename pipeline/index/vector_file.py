"""Vectors in a NumPy file, read and written by row: what is not in use takes no memory of this process.

Not mapped: every page of a mapped file that was ever looked at would count as this process's memory, and giving pages
back costs ten times what reading a row from the system's cache does.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class VectorFile:
    """`[n, d]` float32 vectors in a file that `numpy.load` reads."""

    def __init__(self, path: Path, writable: bool = False) -> None:
        """Open an existing file. Raises ValueError when it holds something else."""
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
            if version != (1, 0):
                raise ValueError(f"NumPy file of version {version} instead of (1, 0)")
            shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)  # type: ignore[no-untyped-call]
            self._offset = stream.tell()
        if dtype != np.float32 or len(shape) != 2 or by_column:
            raise ValueError(f"{dtype} of shape {shape} instead of rows of float32")
        self._rows, self._dimension = shape
        self._row_bytes = self._dimension * dtype.itemsize
        self._file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    @classmethod
    def create(cls, path: Path, rows: int, dimension: int) -> VectorFile:
        """A new file, to be filled by `put`."""
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
        with open(path, "wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)  # type: ignore[no-untyped-call]
            stream.truncate(stream.tell() + rows * dimension * 4)
        return cls(path, writable=True)

    def __len__(self) -> int:
        return int(self._rows)

    def take(self, rows: npt.NDArray[np.int64]) -> Vectors:
        """A copy of the rows `[m, d]`."""
        found = np.empty((len(rows), self._dimension), dtype=np.float32)
        if not len(rows):
            return found
        target = found.data.cast("B")
        if rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            self._read(target, int(rows[0]))
            return found
        size = self._row_bytes
        for place, row in enumerate(rows.tolist()):
            self._read(target[place * size : (place + 1) * size], row)
        return found

    def _read(self, target: memoryview, row: int) -> None:
        position, done = self._offset + row * self._row_bytes, 0
        while done < len(target):
            read = os.preadv(self._file, [target[done:]], position + done)
            if not read:
                raise OSError(f"vector {row} is beyond the end of its file; was it cut?")
            done += read

    def put(self, rows: npt.NDArray[np.int64], vectors: Vectors) -> None:
        """Write `vectors` `[m, d]` to the rows."""
        if not len(rows):
            return
        size = self._row_bytes
        source = np.ascontiguousarray(vectors).data.cast("B")
        for place, row in enumerate(rows.tolist()):
            self._write(source[place * size : (place + 1) * size], row)

    def _write(self, source: memoryview, row: int) -> None:
        position, done = self._offset + row * self._row_bytes, 0
        while done < len(source):  # a disk that is nearly full takes a part of it first
            done += os.pwrite(self._file, source[done:], position + done)
