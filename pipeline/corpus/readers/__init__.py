"""One reader per format: files -> rows in order, bad ones among them as data."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.corpus.columns import WantedColumns
from pipeline.corpus.readers.delimited import read_csv, read_tsv
from pipeline.corpus.readers.documentation import read_package
from pipeline.corpus.readers.documents import read_documents
from pipeline.corpus.readers.jsonl import read_jsonl
from pipeline.corpus.readers.parquet import read_parquet
from pipeline.corpus.rows import BadRow, Row, usable
from pipeline.corpus.sources import FileSource, PackageSource
from pipeline.recipe import CorpusSection


def read(source: FileSource | PackageSource, section: CorpusSection) -> Iterator[Row | BadRow]:
    """Yield every row of the corpus: usable ones, each id once, and bad ones with the reason.

    Raises RayrieverError where a file cannot be read at all or lacks a column.
    """
    return usable(_rows(source, section), section.max_characters)


def _rows(source: FileSource | PackageSource, section: CorpusSection) -> Iterator[Row | BadRow]:
    if isinstance(source, PackageSource):
        return read_package(source.spec)
    wanted = WantedColumns.of(section)
    match source.format:
        case "jsonl":
            return read_jsonl(source.files, wanted)
        case "csv":
            return read_csv(source.files, wanted, section.max_characters)
        case "tsv":
            return read_tsv(source.files, wanted)
        case "parquet":
            return read_parquet(source.files, wanted)
        case "text":
            return read_documents(source.files, section.chunk_words, section.chunk_overlap_words)
