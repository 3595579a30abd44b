"""How a benchmark says what it measured."""

from __future__ import annotations

import json
from collections.abc import Mapping


def show(as_json: bool, figures: Mapping[str, object]) -> None:
    """Print a JSON object, or a line per figure."""
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        print(f"{name:60} {value}")
