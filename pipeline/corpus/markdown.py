"""Headings of a Markdown file, as CommonMark sees them: not those in code, quotes, lists or front matter."""

from __future__ import annotations

import re
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from pipeline.corpus.outline import Document, Heading, outline

_LINE_END = re.compile(r"\r\n?|\n")
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?=\w+[ \t]*:)(.*?)\r?\n(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title[ \t]*:[ \t]*(['\"]?)(.+?)\1[ \t]*\r?$", re.MULTILINE)
_ANCHOR = re.compile(r"\s*\{#[^}]*\}$")
_BREAKS = ("softbreak", "hardbreak")
_LONGEST_HEADING = 200


def parse_markdown(text: str, name: str) -> Document:
    """Return the document with its sections; offsets count in `text` as it stands, markup included.

    A title in YAML front matter heads every heading path, and the front matter is no part of any section.
    """
    front = _FRONT_MATTER.match(text)
    body = front.end() if front else 0
    title = _FRONT_TITLE.search(front.group(1)) if front else None
    return outline(text, _headings(text, body), name, title.group(2).strip() if title else None, body)


def _headings(text: str, body: int) -> list[Heading]:
    starts = [body, *(match.end() for match in _LINE_END.finditer(text, body)), len(text)]
    parser = MarkdownIt("commonmark")
    inline = MarkdownIt("commonmark")
    parser.disable("inline")
    headings = []
    for token, content in pairwise(parser.parse(text[body:])):
        # A setext underline below a long paragraph was meant as a rule.
        if token.type != "heading_open" or token.level or not token.map or len(content.content) > _LONGEST_HEADING:
            continue
        first, after = token.map
        title = _plain(inline, content.content)
        headings.append(Heading(int(token.tag[1]), title, starts[first], starts[min(after, len(starts) - 1)]))
    return headings


def _plain(inline: MarkdownIt, markup: str) -> str:
    """The words of a heading without emphasis, links and anchors."""
    tokens = inline.parseInline(_ANCHOR.sub("", markup))[0].children or []
    return " ".join("".join(" " if token.type in _BREAKS else _words(token) for token in tokens).split())


def _words(token: Token) -> str:
    return token.content if token.type in ("text", "text_special", "code_inline") else ""
