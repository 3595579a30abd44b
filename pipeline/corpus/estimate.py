"""What the corpus stage would make of a corpus, foreseen from the heads of a few files."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifact import Artifact
from pipeline.corpus import beir
from pipeline.corpus.columns import WantedColumns
from pipeline.corpus.files import CorpusFile
from pipeline.corpus.passages import passage_table
from pipeline.corpus.readers import read
from pipeline.corpus.readers.documentation import package_fingerprint
from pipeline.corpus.rows import Columns, Row
from pipeline.corpus.sources import FileSource, PackageSource, beir_collection, locate
from pipeline.recipe import CorpusSection, Recipe
from pipeline.records import full_text
from pipeline.stage import Estimate

_HEAD_BYTES = 1 << 20
_SAMPLED_FILES = 3
# Parsing HTML or Markdown takes two seconds per megabyte.
_DOCUMENT_HEAD_BYTES = 1 << 15
_SAMPLED_DOCUMENTS = 8
_SAMPLED_METADATA = 8
_BYTES_PER_PASSAGE = 400
_STDLIB_PASSAGES = 6_500
_PACKAGE_PASSAGES = 500
_EXAMPLES = 32


@dataclass(frozen=True)
class _Head(CorpusFile):
    """The first rows of a file, as a file; `consumed` of its bytes, compressed if it is, hold `content`."""

    content: bytes
    consumed: int

    def open(self) -> BinaryIO:
        return io.BytesIO(self.content)


def estimate(recipe: Recipe, upstream: Mapping[str, Estimate]) -> Estimate:
    """Return the passages to expect and their size on disk, reading a few megabytes at most.

    `upstream` is not used: the corpus comes first. Raises RayrieverError where there is no corpus, its format
    is unclear, or a column is missing.
    """
    collection = beir_collection(recipe.corpus)
    if collection is not None and not beir.cached_folder(collection).is_dir():
        rows = beir.PASSAGES.get(collection, 0)
        known = "size as published" if rows else "size unknown until then"
        return Estimate(rows, rows * _BYTES_PER_PASSAGE, note=f"beir:{collection} will be downloaded; {known}")
    return _estimate(locate(recipe.corpus), recipe.corpus)


def expected_rows(source: FileSource | PackageSource, section: CorpusSection) -> int:
    """Return about how many rows reading `source` will give."""
    return _estimate(source, section).rows


def _estimate(source: FileSource | PackageSource, section: CorpusSection) -> Estimate:
    if isinstance(source, PackageSource):
        package_fingerprint(source.spec)
        packages = source.spec.count(",") + 1
        rows = _STDLIB_PASSAGES if source.spec == "stdlib" else packages * _PACKAGE_PASSAGES
        return Estimate(rows, rows * _BYTES_PER_PASSAGE, note="rows guessed; importing the packages tells")
    if source.format == "parquet":
        return _from_metadata(source, WantedColumns.of(section))
    return _from_heads(source, section)


def _from_metadata(source: FileSource, wanted: WantedColumns) -> Estimate:
    sampled = _spread(source.files, _SAMPLED_METADATA)
    rows = disk_bytes = 0
    examples: list[str] = []
    for file in sampled:
        with file.explained_errors(), file.open_random_access() as stream, pq.ParquetFile(stream) as parquet:
            columns = wanted.require(parquet.schema_arrow.names, file.location)
            rows += parquet.metadata.num_rows
            if not examples:
                examples = _first_texts(parquet, columns)
            disk_bytes += _column_bytes(parquet.metadata, {columns.passage_id, columns.title, columns.text})
    scale = _total_bytes(source.files) / max(1, _total_bytes(sampled))
    note = "" if len(sampled) == len(source.files) else _note(sampled, source)
    return Estimate(round(rows * scale), round(disk_bytes * scale), note=note, examples=tuple(examples))


def _first_texts(parquet: pq.ParquetFile, columns: Columns) -> list[str]:
    with suppress(ValueError):  # text that is none costs its row later, and no plan now
        for batch in parquet.iter_batches(_EXAMPLES, columns=[columns.text]):
            return [str(text) for text in batch.column(0).to_pylist() if text]
    return []


def _column_bytes(metadata: pq.FileMetaData, names: set[str | None]) -> int:
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema in names)


def _from_heads(source: FileSource, section: CorpusSection) -> Estimate:
    documents = source.format == "text"
    sampled = _spread(source.files, _SAMPLED_DOCUMENTS if documents else _SAMPLED_FILES)
    heads = tuple(_head(file, _DOCUMENT_HEAD_BYTES if documents else _HEAD_BYTES) for file in sampled)
    rows = list(read(FileSource(source.location, source.format, heads), section))
    good = [row for row in rows if isinstance(row, Row)]
    scale = _total_bytes(source.files) / max(1, sum(head.consumed for head in heads))
    notes = [_note(sampled, source)] if scale > 1 else []
    compressed = [head for head in heads if head.compressed]
    if compressed and scale > 1:
        ratio = sum(len(head.content) for head in compressed) / max(1, sum(head.consumed for head in compressed))
        notes.append(f"compression of {ratio:.1f} to 1 assumed throughout")
    if len(good) < len(rows):
        notes.append(f"{len(rows) - len(good):,} of {len(rows):,} rows there cannot be used")
    examples = tuple(full_text(row.title, row.text) for row in good[:: max(1, len(good) // _EXAMPLES)][:_EXAMPLES])
    disk_bytes = round(_parquet_bytes(good) * scale)
    return Estimate(round(len(good) * scale), disk_bytes, note="; ".join(notes), examples=examples)


def observe(corpus: Artifact) -> Estimate:
    """What a finished corpus is."""
    rows = corpus.manifest.tables["passages"].rows
    first = next(iter(corpus.batches("passages", ["title", "text"])), None)
    examples = first.slice(0, _EXAMPLES).to_pylist() if first is not None else []
    return Estimate(rows, rows * _BYTES_PER_PASSAGE, examples=tuple(full_text(r["title"], r["text"]) for r in examples))


def _head(file: CorpusFile, limit: int) -> _Head:
    with file.explained_errors():
        content, consumed = _first_bytes(file, limit)
    # A page in one line ends at a word, so that no character is cut.
    if consumed < file.size and (rows := content[: content.rfind(b"\n") + 1 or content.rfind(b" ") + 1]):
        consumed, content = consumed * len(rows) // len(content), rows
    return _Head(file.filesystem, file.path, file.name, file.size, file.mtime_ns, content, consumed)


def _first_bytes(file: CorpusFile, limit: int) -> tuple[bytes, int]:
    """At most `limit` bytes of content and the number of bytes of the file that hold them."""
    with file.filesystem.open_input_stream(file.path, compression=None) as stream:
        stored: bytes = stream.read(limit)
    if not file.compressed:
        return stored, len(stored)
    gzip_decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    content = gzip_decoder.decompress(stored, limit)
    return content, len(stored) - len(gzip_decoder.unconsumed_tail) - len(gzip_decoder.unused_data)


def _spread(files: Sequence[CorpusFile], count: int) -> Sequence[CorpusFile]:
    """At most `count` files from all parts of the list."""
    if len(files) <= count:
        return files
    return [files[number * (len(files) - 1) // (count - 1)] for number in range(count)]


def _total_bytes(files: Sequence[CorpusFile]) -> int:
    return sum(file.size for file in files)


def _note(sampled: Sequence[CorpusFile], source: FileSource) -> str:
    return f"extrapolated by size from {len(sampled)} of {len(source.files):,} files"


def _parquet_bytes(rows: Sequence[Row]) -> int:
    sink = pa.BufferOutputStream()
    pq.write_table(passage_table(rows), sink, compression="zstd")
    return int(sink.tell())
