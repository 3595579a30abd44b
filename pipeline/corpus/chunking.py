"""Documents -> chunks of a few hundred words that end where a paragraph or a sentence does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.corpus.outline import Document

# Scripts without spaces count one word per character; 64 characters bound what only looks like a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]{{1,64}}")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’»)\]]*$")
_SHORTEST_SHARE = 2 / 3

_Span = tuple[int, int]


@dataclass(frozen=True)
class Chunk:
    """`document.text[start:end]`, without white space around it, and the heading path that names it."""

    title: str
    start: int
    end: int


def chunk_document(document: Document, words: int, overlap: int) -> Iterator[Chunk]:
    """Yield chunks of at most `words` words, each beginning with the last `overlap` words of the one before.

    A heading starts a new chunk and nothing overlaps across it. A chunk ends at the end of a paragraph, else
    of a sentence, else of a line, if there is one in its last third. Offsets are characters of
    `document.text`: for .txt and .md files the file decoded as UTF-8 without its byte order mark and with its
    own line ends, for HTML the text that `html.parse_html` extracts. `overlap` must be smaller than `words`.
    """
    for section in document.sections:
        title = " > ".join(section.path)
        spans = [match.span() for match in _WORD.finditer(document.text, section.start, section.end)]
        for first, after in _cuts(document.text, spans, words, overlap):
            yield Chunk(title, spans[first][0], spans[after - 1][1])


def _cuts(text: str, spans: Sequence[_Span], words: int, overlap: int) -> Iterator[_Span]:
    """Ranges of words, one per chunk."""
    first = 0
    while spans:
        limit = first + words
        if limit >= len(spans):
            yield first, len(spans)
            return
        earliest = first + max(int(words * _SHORTEST_SHARE), overlap + 1)
        after = _boundary(text, spans, earliest, limit)
        yield first, after
        first = after - overlap


def _boundary(text: str, spans: Sequence[_Span], earliest: int, limit: int) -> int:
    """The best word in [earliest, limit] to begin the next chunk with, the latest of equals, or `limit`."""
    best, kind = limit, 0
    for after in range(limit, earliest - 1, -1):
        found = _kind_of_boundary(text, spans[after - 1], spans[after])
        if found > kind:
            best, kind = after, found
    return best


def _kind_of_boundary(text: str, before: _Span, after: _Span) -> int:
    """3 between paragraphs, 2 between sentences, 1 between lines, 0 within a line."""
    gap = text[before[1] : after[0]]
    if _PARAGRAPH.search(gap):
        return 3
    if _SENTENCE_END.search(text[before[0] : before[1]]):
        return 2
    return 1 if "\n" in gap else 0
