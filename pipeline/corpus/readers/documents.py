"""Text, Markdown and HTML files, each cut into chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from bs4.dammit import EncodingDetector

from pipeline.corpus.chunking import chunk_document
from pipeline.corpus.files import CorpusFile
from pipeline.corpus.html import parse_html
from pipeline.corpus.markdown import parse_markdown
from pipeline.corpus.outline import Document, outline
from pipeline.corpus.rows import BadRow, Row

_HTML = (".html", ".htm")
_MARKDOWN = (".md", ".markdown")


def read_documents(files: Sequence[CorpusFile], words: int, overlap: int) -> Iterator[Row | BadRow]:
    """Yield the chunks of all files, with ids `FILE#0`, `FILE#1`, ...; a file without text is one bad row.

    Raises RayrieverError where a file cannot be read.
    """
    for file in files:
        with file.explained_errors(), file.open() as stream:
            content = stream.read()
        text = _decoded(content, file.name)
        if isinstance(text, BadRow):
            yield text
            continue
        yield from _rows(file.name, _document(text, file.name), words, overlap)


def _rows(name: str, document: Document, words: int, overlap: int) -> Iterator[Row | BadRow]:
    text, line, counted = document.text, 1, 0
    chunks = list(chunk_document(document, words, overlap))
    for number, chunk in enumerate(chunks):
        line += text.count("\n", counted, chunk.start)
        counted = chunk.start
        # A line of the text extracted from HTML is none of the file.
        place = None if _is_html(name) else line
        content = text[chunk.start : chunk.end]
        yield Row(f"{name}#{number}", chunk.title, content, name, place, chunk.start, chunk.end)
    if not chunks:
        yield BadRow(name, None, None, "no text in this file")


def _decoded(content: bytes, name: str) -> str | BadRow:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        declared = EncodingDetector.find_declared_encoding(content, is_html=True) if _is_html(name) else None
        line = content.count(b"\n", 0, error.start) + 1
        reason = f"not UTF-8 (byte 0x{content[error.start]:02x} at position {error.start + 1:,} of the file)"
    try:
        return content.decode(declared) if declared else BadRow(name, line, None, reason)
    except (UnicodeDecodeError, LookupError):
        return BadRow(name, line, None, f"{reason}, nor {declared} as it says")


def _is_html(name: str) -> bool:
    return name.lower().endswith(_HTML)


def _document(text: str, name: str) -> Document:
    file_name = PurePosixPath(name).name
    if _is_html(name):
        return parse_html(text, file_name)
    if name.lower().endswith(_MARKDOWN):
        return parse_markdown(text, file_name)
    return outline(text, (), file_name)
