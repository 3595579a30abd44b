"""Read the user's queries and judgments: BEIR's queries.jsonl and qrels/SPLIT.tsv."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pyarrow import fs

from pipeline.errors import RayrieverError
from pipeline.workspace import Workspace

# split -> file names that mean it
SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid"), "test": ("test",)}
NO_PASSAGE = "the corpus has no passage"  # a judgment of something that was left out is no broken row
_QUERY_FILES = ("queries.jsonl", "queries.jsonl.gz")

Reject = Callable[[str, int | None, str | None, str], None]  # source, line, row id, reason


@dataclass(frozen=True)
class Query:
    """A query before it is written: where it belongs and which passages answer it."""

    query_id: str
    text: str
    split: str
    kind: str
    grades: dict[str, int] = field(default_factory=dict)  # passage id -> grade

    @property
    def relevant(self) -> set[str]:
        return {passage_id for passage_id, grade in self.grades.items() if grade > 0}


def query_files(folder: str) -> list[fs.FileInfo]:
    """The query and qrels files of a folder; empty when it has no queries."""
    place = Workspace(folder)
    names = [*_QUERY_FILES, *(f"qrels/{name}.tsv" for names in SPLITS.values() for name in names)]
    found = [i for i in place.filesystem.get_file_info([place.path(n) for n in names]) if i.type == fs.FileType.File]
    return found if any(info.base_name in _QUERY_FILES for info in found) else []


def read_given(folder: str, known_passages: dict[str, str], reject: Reject) -> list[Query]:
    """Queries of every split with their grades; without any qrels all are unlabelled train queries.

    Args:
        known_passages: id in the qrels -> id in the corpus (another one where duplicates were dropped).
        reject: told of every row that cannot be used.
    Raises RayrieverError when the folder has no queries, or none of its judgments fits the corpus.
    """
    place = Workspace(folder)
    files = {info.path[len(place.root.rstrip("/")) + 1 :]: info.path for info in query_files(folder)}
    source = next((name for name in _QUERY_FILES if name in files), None)
    if source is None:
        raise RayrieverError(f"queries.path {folder}: has no queries.jsonl.")
    texts = dict(_read_texts(_lines(place, files[source]), source, reject))
    queries: list[Query] = []
    for split, names in SPLITS.items():
        name = next((f"qrels/{n}.tsv" for n in names if f"qrels/{n}.tsv" in files), None)
        if name is not None:
            grades = _read_grades(_lines(place, files[name]), name, texts, known_passages, reject)
            queries += [Query(q, texts[q], split, "given", grades[q]) for q in sorted(grades)]
    if not queries and len(files) > 1:
        raise RayrieverError(
            f"queries.path {folder}: no judgment names both a query of {source} and a passage of the corpus. "
            "Do the qrels belong to this corpus?"
        )
    return _first_split_only(queries, reject) or [Query(q, texts[q], "train", "given") for q in sorted(texts)]


def _first_split_only(queries: list[Query], reject: Reject) -> list[Query]:
    """A query judged in two splits stays where it is evaluated: test before dev before train."""
    kept: dict[str, Query] = {}
    for query in sorted(queries, key=lambda q: ("test", "dev", "train").index(q.split)):
        if query.query_id in kept:
            reject(f"qrels/{query.split}.tsv", None, query.query_id, f"also in {kept[query.query_id].split}")
        else:
            kept[query.query_id] = query
    return list(kept.values())


def _lines(place: Workspace, path: str) -> Iterator[tuple[int, str]]:
    with place.filesystem.open_input_file(path) as stream:
        content = bytes(stream.read())
    try:
        text = (gzip.decompress(content) if path.endswith(".gz") else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise RayrieverError(f"{path}: cannot be read ({error}). Restore the file from its source.") from error
    # Not splitlines: JSON strings may hold other line separators.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _read_texts(lines: Iterator[tuple[int, str]], source: str, reject: Reject) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for number, line in lines:
        try:
            row = json.loads(line)
            query_id, text = str(row["_id"]), str(row["text"]).strip()
        except (ValueError, TypeError, KeyError):
            reject(source, number, None, 'not a JSON object with "_id" and "text"')
            continue
        if not text or query_id in seen:
            reject(source, number, query_id, "duplicate id" if text else "empty text")
            continue
        seen.add(query_id)
        yield query_id, text


def _read_grades(
    lines: Iterator[tuple[int, str]],
    source: str,
    texts: dict[str, str],
    known_passages: dict[str, str],
    reject: Reject,
) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    for number, line in lines:
        fields = line.rstrip("\r").split("\t")
        if len(fields) != 3 or not fields[2].strip().lstrip("-").isdigit():
            if number > 1:  # the header
                reject(source, number, None, "not query-id, corpus-id and an integer score between tabs")
            continue
        query_id, passage_id, grade = fields[0], fields[1], max(0, int(fields[2]))
        if query_id not in texts:
            reject(source, number, query_id, "no such query")
        elif passage_id not in known_passages:
            reject(source, number, query_id, f"{NO_PASSAGE} {passage_id!r}")
        else:
            known = grades.setdefault(query_id, {})
            passage_id = known_passages[passage_id]
            known[passage_id] = max(grade, known.get(passage_id, 0))
    return grades
