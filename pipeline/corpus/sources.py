"""What corpus.path and corpus.format stand for: which files, or which package, and how to read them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.corpus import beir
from pipeline.corpus.files import CorpusFile, Listing, list_files
from pipeline.errors import RayrieverError
from pipeline.recipe import CorpusSection

Format = Literal["jsonl", "csv", "tsv", "parquet", "text"]

_BEIR = "beir:"
_PYDOC = "pydoc:"
_QUERIES = ("queries.jsonl", "queries.jsonl.gz")
_BEIR_FILES = ("corpus.jsonl", "corpus.jsonl.gz")
_ENDINGS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "tsv",
    ".tsv.gz": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
    ".markdown": "text",
    ".html": "text",
    ".htm": "text",
}
FORMATS = (
    "beir (a folder with corpus.jsonl), jsonl (.jsonl, .ndjson), csv (.csv), tsv (.tsv), each of them also "
    ".gz, parquet (.parquet), text (.txt, .md, .markdown, .html, .htm), pydoc"
)


@dataclass(frozen=True)
class FileSource:
    """Files of one format, in the order in which their rows become passages."""

    location: str
    format: Format
    files: tuple[CorpusFile, ...]


@dataclass(frozen=True)
class PackageSource:
    """Installed Python packages whose documentation is the corpus; `read_documentation` takes `spec`."""

    spec: str


def locate(section: CorpusSection) -> FileSource | PackageSource:
    """Return what `section` names; a BEIR collection is downloaded unless it is here already.

    Raises RayrieverError where there is nothing, or its format cannot be told.
    """
    if section.path.startswith(_PYDOC) or section.format == "pydoc":
        _check_format(section, "pydoc")
        return PackageSource(section.path.removeprefix(_PYDOC))
    collection = beir_collection(section)
    if collection is not None:
        return _beir_source(list_files(str(beir.fetch(collection))))
    listing = _without_queries(list_files(section.path))
    is_beir = not listing.single and any(file.name in _BEIR_FILES for file in listing.files)
    if section.format == "beir" or (section.format == "auto" and is_beir):
        return _beir_source(listing)
    if section.format == "auto":
        chosen = _only_format(listing)
        return FileSource(listing.location, chosen, _files_of(listing, chosen))
    named = _files_of(listing, section.format)
    # Whoever names a file or a glob, and the format, may call the files what they like.
    files = named if named and not listing.single else listing.files
    return FileSource(listing.location, section.format, files)


def _without_queries(listing: Listing) -> Listing:
    """Queries and judgments may lie beside the passages; they are no passages."""
    if listing.single:
        return listing
    passages = tuple(f for f in listing.files if f.name not in _QUERIES and not f.name.startswith("qrels/"))
    return replace(listing, files=passages)


def beir_collection(section: CorpusSection) -> str | None:
    """Return NAME where corpus.path is 'beir:NAME'."""
    if not section.path.startswith(_BEIR):
        return None
    _check_format(section, "beir")
    return section.path.removeprefix(_BEIR)


def _check_format(section: CorpusSection, expected: str) -> None:
    if section.format not in ("auto", expected) or (expected == "pydoc" and section.path.startswith(_BEIR)):
        raise RayrieverError(
            f"corpus {section.path}: corpus.format is '{section.format}', which this path is not. Omit it."
        )


def _beir_source(listing: Listing) -> FileSource:
    files = listing.files if listing.single else tuple(f for f in listing.files if f.name in _BEIR_FILES)[:1]
    if not files:
        nested = sorted(f.name.rpartition("/")[0] for f in listing.files if f.name.endswith("/corpus.jsonl"))
        hint = f" Collections lie in its folders {', '.join(nested)}: name one of them." if nested else ""
        raise RayrieverError(
            f"corpus {listing.location}: a BEIR folder holds corpus.jsonl or corpus.jsonl.gz, not this one."
            + (hint or " Correct corpus.path or corpus.format.")
        )
    return FileSource(listing.location, "jsonl", files)


def _format_of(file: CorpusFile) -> Format | None:
    name = file.name.rpartition("/")[2].lower()
    return next((kind for ending, kind in _ENDINGS.items() if name.endswith(ending)), None)


def _files_of(listing: Listing, wanted: str) -> tuple[CorpusFile, ...]:
    return tuple(file for file in listing.files if _format_of(file) == wanted)


def _only_format(listing: Listing) -> Format:
    counts = Counter(kind for file in listing.files if (kind := _format_of(file)) is not None)
    if not counts:
        raise RayrieverError(
            f"corpus {listing.location}: cannot tell the format from the file names. Set corpus.format, or "
            f"use one of the formats and endings: {FORMATS}."
        )
    if len(counts) > 1:
        seen = ", ".join(f"{kind} ({count:,} files)" for kind, count in counts.most_common())
        raise RayrieverError(
            f"corpus {listing.location}: files of several formats: {seen}. Set corpus.format to the one to "
            "read, or corpus.path to a glob."
        )
    return next(iter(counts))
