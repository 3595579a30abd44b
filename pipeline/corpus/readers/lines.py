"""The numbered lines of a text file, decoded one by one so that a wrong byte spoils its own line only."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.corpus.files import CorpusFile
from pipeline.errors import RayrieverError

_LONGEST_LINE = 1 << 26
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Line:
    """A line with its ending; `fault` says why its text is not to be trusted."""

    number: int
    text: str
    fault: str | None = None


def read_lines(file: CorpusFile) -> Iterator[Line]:
    """Yield the lines of a UTF-8 file, gzipped or not, without a byte order mark.

    Raises RayrieverError where the file cannot be read to its end or is UTF-16.
    """
    with file.explained_errors(), file.open() as stream:
        number = 0
        while raw := stream.readline(_LONGEST_LINE):
            number += 1
            if number == 1:
                raw = _without_mark(raw, file.location)
            if len(raw) >= _LONGEST_LINE and not raw.endswith(b"\n"):
                _skip_line(stream)
                yield Line(number, "", f"longer than {_LONGEST_LINE >> 20} MiB; is this one row per line?")
            else:
                yield _decoded(number, raw)


def _skip_line(stream: BinaryIO) -> None:
    while (rest := stream.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
        continue


def _without_mark(raw: bytes, location: str) -> bytes:
    if raw.startswith(_UTF16):
        raise RayrieverError(
            f"corpus {location}: is UTF-16, not UTF-8. Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW_FILE."
        )
    return raw.removeprefix(codecs.BOM_UTF8)


def _decoded(number: int, raw: bytes) -> Line:
    try:
        return Line(number, raw.decode())
    except UnicodeDecodeError as error:
        fault = f"not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1} of the line)"
        return Line(number, raw.decode(errors="surrogateescape"), fault)
