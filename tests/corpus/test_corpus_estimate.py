"""What `rayriever plan` foresees of a corpus, without reading it."""

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RayrieverError

if TYPE_CHECKING:
    from tests.corpus.conftest import Corpus


def _rows(count: int) -> bytes:
    rows = ({"_id": str(n), "text": "word " * (n % 50 + 1)} for n in range(count))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _bytes_read() -> int:
    """Bytes that this process has read from any file so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes as Linux does")
def test_a_large_file_is_not_read_whole(corpus: "Corpus"):
    content = _rows(20_000)
    for name in ("a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl", "e.jsonl"):
        (corpus.folder / name).write_bytes(content * 2)
    corpus.estimate()  # modules that are loaded at first use would count as well
    before = _bytes_read()
    foreseen = corpus.estimate()
    assert _bytes_read() - before < 4_000_000 < 5 * 2 * len(content) / 4
    # the ids repeat from file to file, which a sample of heads counts as bad rows
    assert foreseen.note.startswith("extrapolated by size from 3 of 5 files; ")


def test_the_rows_of_a_large_file_are_extrapolated(corpus: "Corpus"):
    (corpus.folder / "part.jsonl").write_bytes(_rows(40_000))
    foreseen = corpus.estimate()
    assert abs(foreseen.rows / 40_000 - 1) < 0.02
    assert foreseen.note == "extrapolated by size from 1 of 1 files"


def test_a_small_corpus_is_foreseen_exactly(corpus: "Corpus"):
    corpus.jsonl("a.jsonl", [corpus.passage(n) for n in range(30)] + ["{"])
    foreseen = corpus.estimate()
    assert foreseen.rows == 30
    assert foreseen.disk_bytes > 0
    assert foreseen.note == "1 of 31 rows there cannot be used"


def test_gzip_is_foreseen_from_its_head_and_says_so(corpus: "Corpus"):
    whole = gzip.compress(_rows(40_000), compresslevel=1)
    # The end is missing: whoever reads that far fails.
    (corpus.folder / "part.jsonl.gz").write_bytes(whole[:-1_000])
    foreseen = corpus.estimate()
    assert abs(foreseen.rows / 40_000 - 1) < 0.2
    assert "compression of" in foreseen.note


def test_many_files_are_foreseen_from_a_few(corpus: "Corpus"):
    for number in range(60):
        (corpus.folder / f"{number}.md").write_text("# Heading\n\n" + "some words here. " * 150)
    foreseen = corpus.estimate(chunk_words=160, chunk_overlap_words=30)
    assert foreseen.rows == 60 * 4
    assert foreseen.note == "extrapolated by size from 8 of 60 files"


def test_parquet_is_foreseen_from_its_metadata(corpus: "Corpus"):
    for number in range(3):
        table = pa.table({"id": [str(n) for n in range(1_000)], "text": ["x"] * 1_000, "vector": ["y" * 9] * 1_000})
        pq.write_table(table, corpus.folder / f"{number}.parquet")
    foreseen = corpus.estimate()
    assert foreseen.rows == 3_000
    assert 0 < foreseen.disk_bytes < sum(path.stat().st_size for path in corpus.folder.iterdir())


def test_a_missing_column_is_found_before_the_run(corpus: "Corpus"):
    (corpus.folder / "part.csv").write_text("key,text\na,b\n")
    with pytest.raises(RayrieverError, match=r"Set corpus\.id_field"):
        corpus.estimate()


def test_a_collection_to_be_downloaded_is_foreseen_without_doing_so(
    corpus: "Corpus", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    foreseen = corpus.estimate("beir:scifact")
    assert foreseen.rows == 5_183
    assert foreseen.note == "beir:scifact will be downloaded; size as published"
    assert corpus.estimate("beir:unheard-of").rows == 0


def test_a_package_is_guessed_without_importing_it(corpus: "Corpus"):
    foreseen = corpus.estimate("pydoc:stdlib")
    assert 4_000 < foreseen.rows < 12_000
    assert "guessed" in foreseen.note
    with pytest.raises(RayrieverError, match="no_such_package"):
        corpus.estimate("pydoc:no_such_package")
