"""How the next generation is numbered, and its files are named."""

from __future__ import annotations

import uuid

from pipeline.sharded.folder import ShardFolder


def next_number(folder: ShardFolder) -> int:
    """Of the generation after the newest."""
    return max(folder.generations(), default=0) + 1


def new_prefix(number: int) -> str:
    """Of the files of a change. Two writers of the same number never write the same file."""
    return f"{number:06d}-{uuid.uuid4().hex[:8]}-"
