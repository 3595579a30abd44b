"""The documentation of installed Python packages as rows."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.corpus.pydoc import fingerprint, read_documentation
from pipeline.corpus.rows import BadRow, Row
from pipeline.errors import RayrieverError


def read_package(spec: str) -> Iterator[Row | BadRow]:
    """Yield a row per documented object. Raises RayrieverError for a package that is not installed."""
    try:
        documented = read_documentation(spec)
    except ValueError as error:
        raise _unknown(spec, error) from error
    for each in documented:
        text = f"{each.signature}\n{each.docstring}" if each.signature else each.docstring
        yield Row(each.name, each.name, text, each.source, None)


def package_fingerprint(spec: str) -> str:
    """Return what changes with the documentation of `spec`. Raises RayrieverError for an unknown package."""
    try:
        return fingerprint(spec)
    except ValueError as error:
        raise _unknown(spec, error) from error


def _unknown(spec: str, error: ValueError) -> RayrieverError:
    return RayrieverError(f"corpus pydoc:{spec}: {error}. Correct corpus.path, or install the package.")
