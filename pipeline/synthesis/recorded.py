"""Answers that were recorded elsewhere take the place of LLM calls; which rows of the file are usable, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.bad_rows import check_bad_share
from pipeline.errors import RayrieverError
from pipeline.recorded import file_fingerprint, file_name, is_unicode, numbered_rows
from pipeline.stage import StageContext

_TEXTS = {"cot": "decomposition", "positive": "positive", "negative": "negative"}  # field -> kind of document


@dataclass(frozen=True)
class RecordedAnswer:
    """What the file holds for one query."""

    documents: dict[str, str]  # decomposition, positive, negative, as far as they were recorded
    verified: bool | None  # whether the positive passed; None where nobody looked


class _Fault(Exception):
    """Why a row cannot be used."""

    def __init__(self, reason: str, query_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.query_id = reason, query_id


def recorded_fingerprint(path: str) -> list[Any]:
    """`[name, size, mtime_ns]` of the file, for stage keys. Raises RayrieverError when it is not there."""
    try:
        return file_fingerprint(path)
    except RayrieverError as error:
        raise RayrieverError(f"synthesis.path {error}") from error


def read_recorded(ctx: StageContext, train: Mapping[str, str]) -> dict[str, RecordedAnswer]:
    """Answers of `synthesis.path` by query id, for the queries of `train` (id -> text).

    Broken rows go into the quarantine; rows of other queries are counted, since a file may cover more than one split.
    Raises RayrieverError when the file cannot be read, more than `corpus.max_bad_share` of its rows are broken, or
    none is about a train query.
    """
    path = ctx.recipe.synthesis.path
    assert path is not None
    answers: dict[str, RecordedAnswer] = {}
    first: dict[str, int] = {}
    rows = 0
    for line, content in numbered_rows(path):
        rows += 1
        try:
            query_id, answer = _answer(content, train, first)
        except _Fault as fault:
            ctx.out.outcomes["recorded_unusable"] += 1
            ctx.out.quarantine(file_name(path), line, _printable(fault.query_id), fault.reason)
            continue
        first[query_id] = line
        if query_id in train:
            answers[query_id] = answer
        else:
            ctx.out.outcomes["recorded_no_train_query"] += 1
    ctx.out.outcomes["recorded_rows"] = rows
    broken = ctx.out.outcomes["recorded_unusable"]
    check_bad_share(ctx, f"synthesis.path {path}", broken, rows, "correct synthesis.path")
    if not answers:
        raise RayrieverError(
            f"synthesis.path {path}: none of its {rows:,} rows is about one of the {len(train):,} train queries, such "
            f"as {next(iter(sorted(train)), 'none')!r}. Do the answers belong to these queries?"
        )
    return answers


def _answer(
    content: Mapping[str, Any] | None, train: Mapping[str, str], first: Mapping[str, int]
) -> tuple[str, RecordedAnswer]:
    if content is None:
        raise _Fault("not a JSON object")
    query_id = _query_id(content.get("query_id"))
    if query_id in first:
        raise _Fault(f"duplicate query_id (first in line {first[query_id]})", query_id)
    if query_id in train and not _same_text(content.get("query"), train[query_id]):
        raise _Fault('"query" is not the text of this query', query_id)
    documents = {
        kind: _text(query_id, field, content[field]) for field, kind in _TEXTS.items() if content.get(field) is not None
    }
    if not documents:
        raise _Fault("none of " + ", ".join(f'"{field}"' for field in _TEXTS), query_id)
    verified = content.get("verified")
    if verified is not None and not isinstance(verified, bool):
        raise _Fault('"verified" is not true or false', query_id)
    return query_id, RecordedAnswer(documents, verified)


def _query_id(value: object) -> str:
    if value is None or value == "":
        raise _Fault('no "query_id"')
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _Fault('"query_id" is not text or a whole number')
    return str(value)


def _same_text(recorded: object, text: str) -> bool:
    """Ids of another collection may fit by chance: a text, where there is one, must be the query's."""
    return recorded is None or (isinstance(recorded, str) and recorded.split() == text.split())


def _text(query_id: str, field: str, value: object) -> str:
    if not isinstance(value, str):
        raise _Fault(f'"{field}" is not text', query_id)
    if not value.strip():
        raise _Fault(f'empty "{field}"', query_id)
    if not is_unicode(value):
        raise _Fault(f'"{field}" holds half of a surrogate pair, which is no Unicode text', query_id)
    return value.strip()


def _printable(text: str | None) -> str | None:
    """Parquet takes no lone surrogates, not even in the quarantine."""
    return None if text is None else text.encode(errors="backslashreplace").decode()
