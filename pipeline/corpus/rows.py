"""A row of the corpus, usable or not, and the checks that tell one from the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.bad_rows import place


@dataclass(frozen=True, slots=True)
class Row:
    """A passage to be, and where it was read."""

    passage_id: str
    title: str
    text: str
    source: str  # file relative to corpus.path, or the module of a documented object
    line: int | None  # 1-based line of a text file, 1-based row of a Parquet file
    start: int | None = None  # offsets of a chunk, see pipeline.corpus.chunking
    end: int | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot become a passage, and why."""

    source: str
    line: int | None
    row_id: str | None
    reason: str

    @property
    def place(self) -> str:
        return place(self.source, self.line)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a file that hold what a passage needs."""

    passage_id: str
    title: str | None
    text: str


def row_of(
    source: str, line: int | None, columns: Columns, passage_id: object, title: object, text: object
) -> Row | BadRow:
    """Return the row that these values make, or what is wrong with them. Whole numbers pass as ids."""
    row_id = _as_id(passage_id)
    reason = _id_fault(row_id, passage_id, columns) or _text_fault(text, columns.text)
    if reason is None and title is not None and not isinstance(title, str):
        reason = f'"{columns.title}" is {_kind(title)}, not text'
    if reason is not None or row_id is None or not isinstance(text, str):
        return BadRow(source, line, _printable(row_id), reason or "")
    return Row(row_id, title if isinstance(title, str) else "", text, source, line)


def usable(rows: Iterable[Row | BadRow], max_characters: int) -> Iterator[Row | BadRow]:
    """Pass rows on; those that are too long, hold broken text or repeat an id come out as bad rows."""
    first: dict[str, tuple[str, int | None]] = {}
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        reason = _length_fault(row, max_characters) or _unicode_fault(row)
        if reason is None and row.passage_id in first:
            reason = f'duplicate id "{row.passage_id}" (first in {place(*first[row.passage_id])})'
        if reason is None:
            first[row.passage_id] = (row.source, row.line)
            yield row
        else:
            yield BadRow(row.source, row.line, _printable(row.passage_id), reason)


def _as_id(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None


def _id_fault(row_id: str | None, value: object, columns: Columns) -> str | None:
    if row_id is not None:
        return None
    if value is None or isinstance(value, str):
        return "no id"
    return f'id "{columns.passage_id}" is {_kind(value)}, not text or a whole number'


def _text_fault(text: object, name: str) -> str | None:
    if text is None:
        return f'no "{name}"'
    if not isinstance(text, str):
        return f'"{name}" is {_kind(text)}, not text'
    return None if text.strip() else f'empty "{name}"'


def _length_fault(row: Row, max_characters: int) -> str | None:
    longest = max(len(row.text), len(row.title))
    return (
        f"{longest:,} characters, more than max_characters = {max_characters:,}" if longest > max_characters else None
    )


def _unicode_fault(row: Row) -> str | None:
    try:
        f"{row.passage_id}{row.title}{row.text}".encode()
    except UnicodeEncodeError as error:
        return f"half of a surrogate pair (\\u{ord(error.object[error.start]):04x}), which is no Unicode text"
    return None


def _printable(row_id: str | None) -> str | None:
    """Parquet takes no lone surrogates, not even in the quarantine."""
    return None if row_id is None else row_id.encode(errors="backslashreplace").decode()


def _kind(value: object) -> str:
    """What JSON and tables call a value of this type."""
    names = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")
