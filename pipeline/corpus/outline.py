"""A document as the sections between its headings, each with the path of headings above it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 (highest) to 6; `start` and `end` are offsets of its line or lines in the text."""

    level: int
    title: str
    start: int
    end: int


@dataclass(frozen=True)
class Section:
    """The stretch `start` to `end` of a text and its heading path: ("Guide", "Install", "Linux")."""

    path: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Document:
    """The text that chunks are cut from, with its sections in order."""

    text: str
    sections: tuple[Section, ...]


def outline(text: str, headings: Sequence[Heading], name: str, title: str | None = None, body: int = 0) -> Document:
    """Return `text` from offset `body` on, divided at its headings.

    The document's own title heads every path; what stands under no heading and no title is called `name`.
    """
    root = (title,) if title else ()
    first = headings[0].start if headings else len(text)
    sections = [Section(root or (name,), body, first), *_sections(text, headings, root)]
    return Document(text, tuple(each for each in sections if text[each.start : each.end].strip()))


def _sections(text: str, headings: Sequence[Heading], root: tuple[str, ...]) -> Iterator[Section]:
    above: list[Heading] = []
    for number, heading in enumerate(headings):
        while above and above[-1].level >= heading.level:
            above.pop()
        above.append(heading)
        follower = headings[number + 1] if number + 1 < len(headings) else None
        end = follower.start if follower else len(text)
        # Without a body, and without subheadings that carry it in their path, the heading is all there is.
        alone = not text[heading.end : end].strip() and (follower is None or follower.level <= heading.level)
        yield Section(_path(root, above), heading.start if alone else heading.end, end)


def _path(root: tuple[str, ...], above: Sequence[Heading]) -> tuple[str, ...]:
    titles = tuple(heading.title for heading in above if heading.title)
    # Pages repeat their title as the first heading.
    return titles if root and titles and titles[0].casefold() == root[0].casefold() else root + titles
