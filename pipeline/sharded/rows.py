"""Rows of a table by their place, over the Parquet parts that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifact import Artifact
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class Rows:
    """Parts in order, with the number of rows of each; cheap to send to a worker."""

    uri: str  # of the workspace
    parts: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, artifact: Artifact, table: str) -> Rows:
        parts = artifact.parts(table)
        filesystem = artifact.workspace.filesystem
        counts = [pq.read_metadata(part, filesystem=filesystem).num_rows for part in parts]
        return cls(artifact.workspace.uri, tuple(parts), tuple(counts))

    @property
    def total(self) -> int:
        return sum(self.counts)

    def pieces(self, start: int, stop: int, columns: list[str]) -> Iterator[pa.Table]:
        """Rows start to stop, part by part; parts outside the range are not read."""
        filesystem, position = Workspace(self.uri).filesystem, 0
        for part, count in zip(self.parts, self.counts, strict=True):
            low, high = max(start - position, 0), min(stop - position, count)
            if low < high:
                yield pq.read_table(part, columns=columns, filesystem=filesystem).slice(low, high - low)
            position += count


def bounds_of(total: int, shards: int) -> Sequence[tuple[int, int]]:
    """Ranges of equal length that cover so many rows."""
    return [(total * number // shards, total * (number + 1) // shards) for number in range(shards)]
