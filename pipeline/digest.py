"""Short names of contents: equal ones mean equal contents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def digest(value: Mapping[str, Any]) -> str:
    """Sixteen hex digits that stand for a JSON-able value, the same on every machine and Python version."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
