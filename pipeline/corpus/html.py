"""HTML -> the text a reader sees, with its headings. Scripts, styles and navigation are left out."""

from __future__ import annotations

import re
import warnings

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PreformattedString, Tag

from pipeline.corpus.outline import Document, Heading, outline

_UNREAD = ["script", "style", "nav", "template", "noscript", "title"]
_HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"]
_LINES = frozenset(["caption", "dd", "dt", "figcaption", "li", "option", "summary", "tr"])
_PARAGRAPHS = frozenset(_HEADINGS).union(
    ["address", "article", "aside", "blockquote", "body", "details", "div", "dl", "fieldset", "figure"],
    ["footer", "form", "header", "hr", "html", "main", "ol", "p", "pre", "section", "table", "ul"],
)
_CELLS = frozenset({"td", "th"})
_SPACES = re.compile(r"\s+")


def parse_html(markup: str, name: str) -> Document:
    """Return the document's plain text with its sections; offsets count in that text, not in the markup.

    Paragraphs are parted by an empty line, list items and table rows by a line break, white space within is
    one space; <pre> stays as it is. The <title> heads every heading path.
    """
    with warnings.catch_warnings():
        # BeautifulSoup suggests other parsers for XHTML, and a file name for what looks like one.
        warnings.simplefilter("ignore")
        soup = BeautifulSoup(markup, "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for unread in soup(_UNREAD):
        unread.decompose()
    for permalink in soup.select(", ".join(f"{heading} a" for heading in _HEADINGS)):
        if permalink.get_text().strip() in ("", "¶", "#"):
            permalink.decompose()
    text, headings = _extract(soup)
    return outline(text, headings, name, title or None)


def _extract(soup: BeautifulSoup) -> tuple[str, list[Heading]]:
    writer = _Writer()
    for node in soup.descendants:
        if isinstance(node, Tag):
            writer.open_tag(node)
        elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString):
            writer.write(node)
    writer.close_heading(None)
    return "".join(writer.pieces), writer.headings


class _Writer:
    """Collects text in reading order; a break waits until there is something to part."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.headings: list[Heading] = []
        self._length = 0
        self._gap = ""
        self._block: Tag | None = None
        self._heading: Tag | None = None
        self._heading_start = 0
        self._heading_piece = 0

    def open_tag(self, tag: Tag) -> None:
        if tag.name in _PARAGRAPHS:
            self._widen("\n\n")
        elif tag.name in _LINES or tag.name == "br":
            self._widen("\n")
        elif tag.name in _CELLS:
            self._widen(" ")

    def write(self, node: NavigableString) -> None:
        block, heading, verbatim = _surroundings(node)
        if block is not self._block:
            self._widen("\n" if block is not None and block.name in _LINES else "\n\n")
            self._block = block
        content = str(node)
        if verbatim:
            self._append(content, heading)
            return
        words = _SPACES.sub(" ", content)
        if words.startswith(" "):
            self._widen(" ")
        if words.strip():
            self._append(words.strip(), heading)
            self._gap = " " if words.endswith(" ") else ""

    def close_heading(self, following: Tag | None) -> None:
        """Record the heading that has ended, when what follows is not part of it."""
        if self._heading is None or following is self._heading:
            return
        title = " ".join("".join(self.pieces[self._heading_piece :]).split())
        level = int(self._heading.name[1])
        self.headings.append(Heading(level, title, self._heading_start, self._length))
        self._heading = None

    def _append(self, content: str, heading: Tag | None) -> None:
        self.close_heading(heading)
        if self._length:
            self._put(self._gap)
        self._gap = ""
        if heading is not None and self._heading is None:
            self._heading, self._heading_start, self._heading_piece = heading, self._length, len(self.pieces)
        self._put(content)

    def _put(self, content: str) -> None:
        if content:
            self.pieces.append(content)
            self._length += len(content)

    def _widen(self, gap: str) -> None:
        # "" < " " < "\n" < "\n\n" by what they part.
        if (gap.count("\n"), len(gap)) > (self._gap.count("\n"), len(self._gap)):
            self._gap = gap


def _surroundings(node: NavigableString) -> tuple[Tag | None, Tag | None, bool]:
    """The block that a text belongs to, the heading it is part of, and whether its white space counts."""
    block: Tag | None = None
    heading: Tag | None = None
    verbatim = False
    for parent in node.parents:
        if block is None and (parent.name in _PARAGRAPHS or parent.name in _LINES):
            block = parent
        if parent.name in _HEADINGS:
            heading = parent
        verbatim = verbatim or parent.name == "pre"
    return block, heading, verbatim
