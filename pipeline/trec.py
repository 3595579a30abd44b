"""TREC files: runs, `query Q0 passage rank score tag`, one hit per line; and qrels, also in BEIR's form."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from pyarrow import fs

from pipeline import records
from pipeline.errors import RayrieverError
from pipeline.rankings import Hit, from_table, to_table

_FIELDS = 6
# A blank ends a field; '%' is encoded because it marks encoded ones. No blank lies beyond U+3000.
_CODES = {chr(point): quote(chr(point)) for point in range(0x3001) if chr(point).isspace() or chr(point) == "%"}
_CHARACTERS = {code: character for character, code in _CODES.items()}
_ENCODE = str.maketrans(_CODES)
_CODE = re.compile("|".join(_CHARACTERS))


def to_run(hits: pa.Table) -> str:
    """Write rows of `records.HIT` so that trec_eval, which ignores ranks, finds exactly their order.

    trec_eval sorts by score in single precision and breaks ties by descending id. So scores are written in
    single precision, and one that is not below its predecessor is lowered to the next smaller number. Blanks
    and '%' in ids are percent-encoded, blanks in the tag become '_'.

    Raises ValueError for a score that is not finite, and as `from_table` does.
    """
    lines: list[str] = []
    for system in dict.fromkeys(hits["system"].to_pylist()):
        tag = "_".join(system.split()) or "run"
        for query_id, ranking in from_table(hits, system).items():
            scores = _decreasing(query_id, ranking)
            lines += (
                f"{_encode(query_id)} Q0 {_encode(hit.passage_id)} {rank} {score} {tag}\n"
                for rank, (hit, score) in enumerate(zip(ranking, scores, strict=True), start=1)
            )
    return "".join(lines)


def write_runs(folder: Path, systems: Mapping[str, pa.Table]) -> None:
    """A file for each system, under a name made of the system's."""
    for system, hits in systems.items():
        name = "-".join("".join(c if c.isalnum() else " " for c in system.lower()).split())
        (folder / f"{name}.trec").write_text(to_run(hits), encoding="utf-8")


def from_run(text: str, source: str) -> pa.Table:
    """Read a run file into rows of `records.HIT`, the tag as system; `source` names the file in errors.

    The rank column gives the order (equal ranks: the order of lines), and ranks are counted anew from 1: some
    systems start at 0. Blanks and '%' that `to_run` encoded are decoded.

    Raises RayrieverError naming the line that is no hit or repeats a passage of its query.
    """
    systems: dict[str, dict[str, list[tuple[int, Hit]]]] = {}
    seen: set[tuple[str, str, str]] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        tag, query_id, rank, hit = _parse(line, f"{source}:{number}")
        if (tag, query_id, hit.passage_id) in seen:
            raise RayrieverError(
                f"{source}:{number}: passage {hit.passage_id!r} is ranked twice for query {query_id!r}. "
                "Keep one of the lines."
            )
        seen.add((tag, query_id, hit.passage_id))
        systems.setdefault(tag, {}).setdefault(query_id, []).append((rank, hit))
    tables = [
        to_table(
            tag,
            {query: [hit for _, hit in sorted(ranked, key=lambda pair: pair[0])] for query, ranked in queries.items()},
        )
        for tag, queries in systems.items()
    ]
    return pa.concat_tables(tables) if tables else records.HIT.empty_table()


def from_qrels(text: str, source: str) -> pa.Table:
    """Read judgments into rows of `records.JUDGMENT`: `query 0 passage grade`, or BEIR's three columns with a header.

    Raises RayrieverError naming the line that is no judgment or repeats one.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    is_beir = bool(lines) and lines[0][1].split("\t")[0] == "query-id"
    rows: dict[tuple[str, str], int] = {}
    for number, line in lines[1:] if is_beir else lines:
        fields = line.strip("\r").split("\t") if is_beir else line.split()
        try:
            query_id, passage_id, grade = fields if is_beir else (_decode(fields[0]), _decode(fields[2]), fields[3])
            judged = int(grade)
        except (ValueError, IndexError) as error:
            form = "query-id, corpus-id and score between tabs" if is_beir else "'query 0 passage grade'"
            raise RayrieverError(f"{source}:{number}: not a judgment, which is written {form}.") from error
        if rows.setdefault((query_id, passage_id), judged) != judged:
            raise RayrieverError(
                f"{source}:{number}: passage {passage_id!r} has two grades for query {query_id!r}. Keep one of them."
            )
    columns = [[query_id for query_id, _ in rows], [passage_id for _, passage_id in rows], list(rows.values())]
    return pa.Table.from_arrays([pa.array(each) for each in columns], names=records.JUDGMENT.names).cast(
        records.JUDGMENT
    )


def read_file(uri: str) -> str:
    """The text of a file on a local disk or an object store, gzipped or not.

    Raises RayrieverError when it is not there or no text.
    """
    try:
        filesystem, path = fs.FileSystem.from_uri(uri if "://" in uri else str(Path(uri).expanduser().absolute()))
        with filesystem.open_input_stream(path, compression="gzip" if path.endswith(".gz") else None) as stream:
            return str(stream.read().decode("utf-8-sig"))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RayrieverError(f"{uri}: cannot be read ({error}). Give the path or URI of a text file.") from error


def _decreasing(query_id: str, ranking: list[Hit]) -> list[str]:
    written: list[str] = []
    ceiling = np.float32(np.inf)
    for hit in ranking:
        if not math.isfinite(hit.score):
            raise ValueError(f"query {query_id!r}: score of passage {hit.passage_id!r} is {hit.score}.")
        ceiling = min(np.float32(hit.score), np.nextafter(ceiling, np.float32(-np.inf)))
        written.append(str(ceiling))
    return written


def _parse(line: str, place: str) -> tuple[str, str, int, Hit]:
    fields = line.split()
    try:
        query_id, _, passage_id, rank, score, tag = fields
        return tag, _decode(query_id), int(rank), Hit(_decode(passage_id), float(score))
    except ValueError as error:
        why = f"{len(fields)} fields" if len(fields) != _FIELDS else "rank or score is no number"
        raise RayrieverError(f"{place}: {why}; a hit is written 'query Q0 passage rank score tag'.") from error


def _encode(name: str) -> str:
    return name.translate(_ENCODE)


def _decode(name: str) -> str:
    return _CODE.sub(lambda match: _CHARACTERS[match[0]], name)
