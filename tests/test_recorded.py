"""Reading JSON lines of recorded answers from where they lie."""

import gzip
from pathlib import Path

import pytest

from pipeline.errors import RayrieverError
from pipeline.recorded import file_fingerprint, numbered_rows
from pipeline.workspace import Workspace

CONTENT = b'\xef\xbb\xbf{"a": 1}\r\n\n[1]\n{"a": "\xe2\x80\xa8"}\n{"a": "\xff"}\n{"a": \n{"a": 2}'
ROWS = [(1, {"a": 1}), (3, None), (4, {"a": "\u2028"}), (5, None), (6, None), (7, {"a": 2})]


def test_lines_keep_their_numbers_and_bad_ones_are_none(tmp_path: Path):
    """Line numbers count blank lines and only line feeds, or a quarantined row would point to another line."""
    (tmp_path / "r.jsonl").write_bytes(CONTENT)
    assert list(numbered_rows(str(tmp_path / "r.jsonl"))) == ROWS


def test_gzip_reads_alike_and_a_truncated_file_is_a_message(tmp_path: Path):
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress(CONTENT))
    assert list(numbered_rows(str(path))) == ROWS
    path.write_bytes(gzip.compress(CONTENT)[:-12])
    with pytest.raises(RayrieverError, match=r"r\.jsonl\.gz: cannot be read to its end"):
        list(numbered_rows(str(path)))


def test_object_store_reads_alike(bucket: str):
    place = Workspace(f"s3://library/answers?{bucket}")
    place.write_bytes(place.path("r.jsonl"), CONTENT)
    uri = f"s3://library/answers/r.jsonl?{bucket}"
    assert list(numbered_rows(uri)) == ROWS
    assert file_fingerprint(uri)[:2] == ["r.jsonl", len(CONTENT)]


def test_fingerprint_changes_with_the_file(tmp_path: Path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(CONTENT)
    before = file_fingerprint(str(path))
    path.write_bytes(CONTENT + b" ")
    assert file_fingerprint(str(path)) != before
    with pytest.raises(RayrieverError, match="no such file"):
        file_fingerprint(str(tmp_path / "absent"))
    with pytest.raises(RayrieverError, match="no such file"):
        file_fingerprint(str(tmp_path))
