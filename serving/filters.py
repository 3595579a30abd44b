"""Filters as OpenAI writes them, over what is known of a passage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serving.errors import bad_request, shown

KEYS = {"file_id": "passage_id", "passage_id": "passage_id", "title": "title", "source": "source"}
_COMPARE = {
    "eq": lambda field, value: field == value,
    "ne": lambda field, value: field != value,
    "gt": lambda field, value: field > value,
    "gte": lambda field, value: field >= value,
    "lt": lambda field, value: field < value,
    "lte": lambda field, value: field <= value,
}
_DEPTH, _MOST = 8, 64


def check(filters: Mapping[str, Any]) -> None:
    """Raise ApiError (400), naming the place, for a filter that `expression` cannot read."""
    expression(filters)


def expression(filters: Mapping[str, Any]) -> pc.Expression:
    """The filter over columns passage_id, title and source."""
    return _read(filters, "filters", 0)


def _read(given: Any, place: str, depth: int) -> pc.Expression:
    if not isinstance(given, Mapping):
        raise bad_request(f"{place}: is not an object.", "filters")
    if depth > _DEPTH:
        raise bad_request(f"{place}: filters are nested more than {_DEPTH} deep.", "filters")
    kind = given.get("type")
    if kind in ("and", "or"):
        return _joined(given, kind, place, depth)
    key, value = given.get("key"), given.get("value")
    if not isinstance(key, str) or key not in KEYS:
        raise bad_request(f"{place}.key {shown(str(key))}: is not among {', '.join(KEYS)}.", "filters")
    field = pc.field(KEYS[key])
    if kind in ("in", "nin"):
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise bad_request(f"{place}.value: {kind} needs a list of strings.", "filters")
        found = field.isin(pa.array(value, pa.string()))
        return found if kind == "in" else ~found
    if not isinstance(kind, str) or kind not in _COMPARE:
        raise bad_request(
            f"{place}.type {shown(str(kind))}: is not among {', '.join(_COMPARE)}, in, nin, and, or.", "filters"
        )
    if not isinstance(value, str):
        raise bad_request(f"{place}.value: {key} is compared with a string.", "filters")
    return _COMPARE[kind](field, value)


def _joined(given: Mapping[str, Any], kind: str, place: str, depth: int) -> pc.Expression:
    inner = given.get("filters")
    if not isinstance(inner, list) or not 1 <= len(inner) <= _MOST:
        raise bad_request(f"{place}.filters: {kind} needs a list of 1 to {_MOST} filters.", "filters")
    joined, *others = (_read(each, f"{place}.filters.{number}", depth + 1) for number, each in enumerate(inner))
    for each in others:
        joined = joined & each if kind == "and" else joined | each
    return joined
