"""JSON Lines, BEIR's corpus.jsonl among them: one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from pipeline.corpus.columns import WantedColumns
from pipeline.corpus.files import CorpusFile
from pipeline.corpus.readers.lines import Line, read_lines
from pipeline.corpus.rows import BadRow, Row, row_of

_KEYS_FROM_ROWS = 1_000


def read_jsonl(files: Sequence[CorpusFile], wanted: WantedColumns) -> Iterator[Row | BadRow]:
    """Yield the rows of all files.

    Raises RayrieverError where no row of any file has the id, the text or the title that the recipe names:
    then the column's name is wrong, not the rows.
    """
    keys: dict[str, None] = {}
    ids = texts = titles = objects = 0
    for file in files:
        for line in read_lines(file):
            if not line.text.strip() and line.fault is None:
                continue
            content = _object(line)
            if isinstance(content, str):
                yield BadRow(file.name, line.number, None, content)
                continue
            columns = wanted.among(content)
            objects += 1
            ids += columns.passage_id in content
            texts += columns.text in content
            titles += columns.title is not None
            if objects <= _KEYS_FROM_ROWS:
                keys.update(dict.fromkeys(content))
            title = content.get(columns.title) if columns.title is not None else None
            values = (content.get(columns.passage_id), title, content.get(columns.text))
            yield row_of(file.name, line.number, columns, *values)
    if objects and not (ids and texts and (titles or not wanted.title_required)):
        wanted.require(keys, files[0].location)


def _object(line: Line) -> dict[str, object] | str:
    """The line's object, or what is wrong with the line."""
    if line.fault is not None:
        return line.fault
    try:
        content = json.loads(line.text)
    except json.JSONDecodeError as error:
        return f"broken JSON: {error.msg} at character {error.colno}"
    # Numbers of thousands of digits and very deep nesting are refused with exceptions of their own.
    except (ValueError, RecursionError) as error:
        return f"broken JSON: {error}"
    return content if isinstance(content, dict) else "no JSON object"
