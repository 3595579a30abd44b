"""Rows of other trainers' tables to examples: the layouts, how they are told apart, what is wrong with a row.

Knows no file format: a row is a mapping from column to Python value.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.recorded import is_number, is_unicode
from pipeline.training.examples import Example

_NEGATIVE = re.compile(r"negative(?:_(\d+))?")
_SCORES = ("scores", "score", "label")  # names under which sentence-transformers looks for them
_IDS = ("query_id", "id")
_OPTIONAL = (*_IDS, "weight")


class UnusableRow(Exception):
    """Why a row is no example."""


@dataclass(frozen=True)
class Layout:
    """A way of writing examples down."""

    name: str
    columns: str  # what it looks like, for people
    required: tuple[frozenset[str], ...]  # of each set one column at least
    others: frozenset[str]
    read: Callable[[Mapping[str, Any]], Example]  # raises UnusableRow

    def fits(self, columns: Collection[str]) -> bool:
        return all(names & set(columns) for names in self.required)

    def wanted(self, columns: Collection[str]) -> list[str]:
        """The columns that `read` looks at, so that others need not be read."""
        known = self.others.union(*self.required)
        return [name for name in columns if name in known or _NEGATIVE.fullmatch(name)]


def layout_of(columns: Collection[str]) -> Layout | None:
    return next((layout for layout in LAYOUTS if layout.fits(columns)), None)


def short_sha(text: str) -> str:
    """Sixteen hex digits: the id of a text that came without one."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def given_id(row: Mapping[str, Any]) -> str | None:
    """The row's own id of its query, if it has a usable one."""
    values = (row.get(name) for name in _IDS)
    return next((str(value) for value in values if _is_id(value)), None)


def _read_flagembedding(row: Mapping[str, Any]) -> Example:
    positives, negatives = _texts(row, "pos"), _texts(row, "neg")
    of_positives, of_negatives = _numbers(row, "pos_scores"), _numbers(row, "neg_scores")
    if of_positives or of_negatives:
        _same_length("pos_scores", of_positives, "pos", positives)
        _same_length("neg_scores", of_negatives, "neg", negatives)
    ids = _ids(row, "pos_id", "pos", positives), _ids(row, "neg_id", "neg", negatives)
    return _example(row, _text(row, "query"), positives, negatives, of_positives + of_negatives, ids)


def _read_plain(row: Mapping[str, Any]) -> Example:
    positives, negatives = _texts(row, "positives"), _texts(row, "negatives")
    scores = _numbers(row, "scores")
    if scores:
        _same_length("scores", scores, "positives and negatives", positives + negatives)
    return _example(row, _text(row, "query"), positives, negatives, scores)


def _read_sentence_transformers(row: Mapping[str, Any]) -> Example:
    query = _text(row, "anchor" if row.get("anchor") is not None else "query")
    columns = sorted((int(match[1] or 0), name) for name in row if (match := _NEGATIVE.fullmatch(name)))
    positives = (_text(row, "positive"),)
    negatives = tuple(_text(row, name) for _, name in columns if row[name] is not None)
    name = next((name for name in _SCORES if row.get(name) is not None), None)
    scores = _numbers(row, name) if name else ()
    if name and scores:
        _same_length(name, scores, "the positive and its negatives", positives + negatives)
    return _example(row, query, positives, negatives, scores)


def _example(
    row: Mapping[str, Any],
    query: str,
    positives: tuple[str, ...],
    negatives: tuple[str, ...],
    scores: tuple[float, ...],
    ids: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
) -> Example:
    if not positives:
        raise UnusableRow("no positive")
    positive_ids, negative_ids = ids or (_shas(positives), _shas(negatives))
    return Example(
        query_id=given_id(row) or short_sha(query),
        query=query,
        labelled_ids=positive_ids,
        labelled=positives,
        mined_ids=negative_ids,
        mined=negatives,
        candidate_ids=positive_ids + negative_ids if scores else (),
        candidates=positives + negatives if scores else (),
        grades=scores,
        weight=_weight(row),
    )


def _weight(row: Mapping[str, Any]) -> float:
    value = row.get("weight")
    if value is None:
        return 1.0
    if not is_number(value) or value <= 0:
        raise UnusableRow('"weight" is not a number above 0')
    return float(value)


def _text(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None:
        raise UnusableRow(f'no "{name}"')
    return _checked(row[name], f'"{name}"')


def _texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(_checked(value, f'an element of "{name}"') for value in _list(row, name))


def _checked(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise UnusableRow(f"{what} is not text")
    if not value.strip():
        raise UnusableRow(f"{what} is empty")
    if not is_unicode(value):
        raise UnusableRow(f"{what} holds half of a surrogate pair, which is no Unicode text")
    return value


def _list(row: Mapping[str, Any], name: str) -> list[Any]:
    values = row.get(name)
    if values is None:
        return []
    if not isinstance(values, list):
        raise UnusableRow(f'"{name}" is not a list')
    return values


def _numbers(row: Mapping[str, Any], name: str) -> tuple[float, ...]:
    values = _list(row, name)
    if not all(map(is_number, values)):
        raise UnusableRow(f'an element of "{name}" is not a finite number')
    return tuple(map(float, values))


def _ids(row: Mapping[str, Any], name: str, of: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    values = _list(row, name)
    if not values:
        return _shas(texts)
    _same_length(name, values, of, texts)
    if not all(map(_is_id, values)):
        raise UnusableRow(f'an element of "{name}" is not text or a whole number')
    return tuple(map(str, values))


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return bool(value.strip()) and is_unicode(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _same_length(name: str, values: Collection[object], of: str, texts: Collection[str]) -> None:
    if len(values) != len(texts):
        raise UnusableRow(f'"{name}" has {len(values)} elements for {len(texts)} of {of}')


def _shas(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(short_sha, texts))


# In the order in which they are tried: `query` and `positive` beside `pos` would fit two.
LAYOUTS = (
    Layout(
        "FlagEmbedding",
        "query, pos (list), neg (list), and where there are any pos_scores, neg_scores, pos_id, neg_id, id, weight",
        (frozenset({"query"}), frozenset({"pos"})),
        frozenset({"neg", "pos_scores", "neg_scores", "pos_id", "neg_id", *_OPTIONAL}),
        _read_flagembedding,
    ),
    Layout(
        "plain",
        "query, positives (list), negatives (list), and where there are any scores (list), query_id, weight",
        (frozenset({"query"}), frozenset({"positives"})),
        frozenset({"negatives", "scores", *_OPTIONAL}),
        _read_plain,
    ),
    Layout(
        "sentence-transformers",
        "anchor or query, positive, and where there are any negative, negative_1 ..., scores (list), weight",
        (frozenset({"anchor", "query"}), frozenset({"positive"})),
        frozenset({*_SCORES, *_OPTIONAL}),
        _read_sentence_transformers,
    ),
)
