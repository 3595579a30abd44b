"""A corpus on an object store, against moto's server."""

import gzip
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from pipeline.corpus import stage
from pipeline.errors import RayrieverError

if TYPE_CHECKING:
    from tests.corpus.conftest import Corpus


def _put(options: str, key: str, content: bytes) -> None:
    filesystem, path = fs.FileSystem.from_uri(f"s3://library/{quote(key)}?{options}")
    with filesystem.open_output_stream(path, compression=None) as stream:
        stream.write(content)


def test_files_on_s3_read_like_local_ones(bucket: str, corpus: "Corpus"):
    lines = [json.dumps(corpus.passage(n)).encode() + b"\n" for n in range(6)]
    _put(bucket, "notes/part-1.jsonl", b"".join(lines[:2]))
    _put(bucket, "notes/more/part-2.jsonl.gz", gzip.compress(b"".join(lines[2:4])))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"_id": ["p4"], "text": ["text"]}), sink)
    _put(bucket, "tables/a b.parquet", sink.getvalue().to_pybytes())

    folder = corpus.run(f"s3://library/notes?{bucket}")
    assert [(row["passage_id"], row["source"]) for row in folder.rows("passages")] == [
        ("p2", "more/part-2.jsonl.gz"),
        ("p3", "more/part-2.jsonl.gz"),
        ("p0", "part-1.jsonl"),
        ("p1", "part-1.jsonl"),
    ]
    assert corpus.run(f"s3://library/notes/*.jsonl?{bucket}").ids() == ["p0", "p1"]
    assert corpus.run(f"s3://library/tables/a b.parquet?{bucket}").ids() == ["p4"]
    recipe = corpus.recipe(f"s3://library/notes?{bucket}")
    assert stage.estimate(recipe, {}).rows == 4
    assert [name for name, _, _ in stage.external(recipe)["files"]] == [
        "more/part-2.jsonl.gz",
        "part-1.jsonl",
    ]


def test_a_missing_prefix_or_bucket_is_named(bucket: str, corpus: "Corpus"):
    for place in ("library/nowhere", "no-such-bucket/x"):
        with pytest.raises(RayrieverError, match=rf"s3://{place}: there is no such file or folder"):
            corpus.run(f"s3://{place}?{bucket}")


@pytest.mark.slow  # pyarrow retries for six seconds
def test_an_unreachable_store_is_a_readable_error(bucket: str, corpus: "Corpus"):
    with pytest.raises(RayrieverError, match=r"cannot be listed .*the endpoint, the region and the credentials"):
        corpus.run("s3://library/notes?endpoint_override=127.0.0.1:9&scheme=http")
