"""What a reader makes of good and bad rows, by format."""

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


def test_three_broken_lines_in_a_thousand_do_not_cost_the_other_rows(corpus: "Corpus"):
    rows: list[object] = [corpus.passage(number) for number in range(1, 1_001)]
    rows[9], rows[499], rows[998] = '{"_id": "p10", "text": ', "[1, 2]", '{"_id": "p999", "text": ""}'
    corpus.jsonl("part.jsonl", rows)

    outcome = corpus.run(max_bad_share=0.01)

    assert outcome.outcomes["read"] == 1_000
    assert outcome.outcomes["unusable"] == 3
    assert outcome.outcomes["passages"] == len(outcome.ids()) == 997
    assert [(row["source"], row["line"], row["row_id"]) for row in outcome.quarantined] == [
        ("part.jsonl", 10, None),
        ("part.jsonl", 500, None),
        ("part.jsonl", 999, "p999"),
    ]
    broken, no_object, empty = outcome.reasons()
    assert broken.startswith("broken JSON: Expecting value at character")
    assert no_object == "no JSON object"
    assert empty == 'empty "text"'


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"title": "t", "text": "x"}, "no id"),
        ({"_id": None, "text": "x"}, "no id"),
        ({"_id": "  ", "text": "x"}, "no id"),
        ({"_id": 1.5, "text": "x"}, 'id "_id" is a number, not text or a whole number'),
        ({"_id": True, "text": "x"}, 'id "_id" is a truth value, not text or a whole number'),
        ({"_id": "a", "title": "t"}, 'no "text"'),
        ({"_id": "a", "text": " \n"}, 'empty "text"'),
        ({"_id": "a", "text": ["x"]}, '"text" is a list, not text'),
        ({"_id": "a", "text": 7}, '"text" is a number, not text'),
        ({"_id": "a", "text": "x", "title": {}}, '"title" is an object, not text'),
        ({"_id": "a", "text": "x" * 101}, "101 characters, more than max_characters = 100"),
        ('{"_id": "a", "text": "\\ud800"}', "half of a surrogate pair (\\ud800), which is no Unicode text"),
        ('{"_id": "\\ud800", "text": ""}', 'empty "text"'),
        ('{"_id": "p1", "text": "again"}', 'duplicate id "p1" (first in part.jsonl:1)'),
        ("[" * 100_000, "broken JSON: maximum recursion depth exceeded"),
        ('{"_id": ' + "9" * 5_000 + ', "text": "x"}', "broken JSON: Exceeds the limit"),
    ],
)
def test_a_bad_row_is_told_by_its_reason(row: object, reason: str, corpus: "Corpus"):
    corpus.jsonl("part.jsonl", [corpus.passage(1), row, corpus.passage(2)])
    outcome = corpus.run(max_characters=100)
    assert outcome.ids() == ["p1", "p2"]
    assert [(r["line"], r["reason"].startswith(reason)) for r in outcome.quarantined] == [(2, True)]


def test_a_whole_number_is_an_id_and_an_absent_title_is_empty(corpus: "Corpus"):
    corpus.jsonl("part.jsonl", [{"id": 7, "contents": "x"}, {"docid": "a", "body": "y", "title": None}])
    assert [(row["passage_id"], row["title"], row["text"]) for row in corpus.run().rows("passages")] == [
        ("7", "", "x"),
        ("a", "", "y"),
    ]


def test_a_duplicate_id_in_another_file_names_the_first(corpus: "Corpus"):
    corpus.jsonl("part-1.jsonl", [corpus.passage(n) for n in range(1, 4)] + [corpus.passage(17)])
    (corpus.folder / "notes").mkdir()
    corpus.jsonl("notes/part-3.jsonl", [corpus.passage(30), corpus.passage(17, text="another text")])
    outcome = corpus.run()
    # notes/ sorts before part-1
    assert [(row["source"], row["line"], row["row_id"], row["reason"]) for row in outcome.quarantined] == [
        ("part-1.jsonl", 4, "p17", 'duplicate id "p17" (first in notes/part-3.jsonl:2)')
    ]


def test_wrong_encoding_costs_its_line_only(corpus: "Corpus"):
    lines = [json.dumps(corpus.passage(n)).encode() for n in range(3)]
    lines[1] = '{"_id": "p1", "text": "café"}'.encode("latin-1")
    (corpus.folder / "part.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n")
    outcome = corpus.run()
    assert outcome.ids() == ["p0", "p2"]
    assert outcome.reasons() == ["not UTF-8 (byte 0xe9 at position 27 of the line)"]


def test_utf16_is_named_instead_of_a_thousand_broken_lines(corpus: "Corpus"):
    (corpus.folder / "part.jsonl").write_text(json.dumps(corpus.passage(1)), encoding="utf-16")
    with pytest.raises(RayrieverError, match=r"part\.jsonl: is UTF-16, not UTF-8\. Convert it: iconv"):
        corpus.run()


def test_gzip_reads_like_the_plain_file(corpus: "Corpus"):
    plain = corpus.jsonl("part.jsonl", [corpus.passage(n) for n in range(50)]).read_bytes()
    (corpus.folder / "part.jsonl").unlink()
    # two members, as `cat a.gz b.gz` makes them
    half = plain.index(b"\n", len(plain) // 2) + 1
    (corpus.folder / "part.jsonl.gz").write_bytes(gzip.compress(plain[:half]) + gzip.compress(plain[half:]))
    assert corpus.run().ids() == [f"p{n}" for n in range(50)]


@pytest.mark.parametrize("damage", ["cut", "flipped", "plain"])
def test_a_damaged_gzip_fails_instead_of_passing_for_a_short_corpus(damage: str, corpus: "Corpus"):
    whole = gzip.compress(b"".join(json.dumps(corpus.passage(n)).encode() + b"\n" for n in range(5_000)))
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    content = {"cut": whole[:-200], "flipped": flipped, "plain": b'{"_id": "a", "text": "x"}\n'}[damage]
    (corpus.folder / "part-2.jsonl.gz").write_bytes(content)
    corpus.jsonl("part-1.jsonl", [corpus.passage(-1)])
    with pytest.raises(RayrieverError, match=r"part-2\.jsonl\.gz: truncated, damaged or no gzip file .*again"):
        corpus.run()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {},
            r'no column with the id: looked for "_id" or .*found "key", "heading", "words".*corpus\.id_field',
        ),
        ({"id_field": "key"}, r'no column with the text: looked for "text" or .*corpus\.text_field'),
        ({"id_field": "key", "text_field": "wrods"}, r'looked for "wrods", found "key", "heading", "words"'),
        (
            {"id_field": "key", "text_field": "words", "title_field": "header"},
            r'no column with the title: looked for "header".*corpus\.title_field',
        ),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_a_missing_column_is_an_error_that_names_file_columns_and_key(
    ending: str, section: dict[str, str], message: str, corpus: "Corpus"
):
    path = _table(corpus.folder / f"part.{ending}", [{"key": "a", "heading": "h", "words": "x y"}])
    with pytest.raises(RayrieverError, match=rf"part\.{ending}: .*{message}"):
        corpus.run(path, **section)
    named = corpus.run(path, id_field="key", title_field="heading", text_field="words")
    assert [tuple(row.values())[:4] for row in named.rows("passages")] == [("a", "h", "x y", f"part.{ending}")]


def test_one_file_without_ids_among_others_is_bad_rows_not_an_error(corpus: "Corpus"):
    corpus.jsonl("a.jsonl", [{"text": "one"}, {"text": "two"}])
    corpus.jsonl("b.jsonl", [corpus.passage(1)])
    outcome = corpus.run()
    assert outcome.ids() == ["p1"]
    assert outcome.reasons() == ["no id", "no id"]


def _table(path: Path, rows: list[dict[str, str]]) -> Path:
    separator = {"csv": ",", "tsv": "\t"}.get(path.suffix[1:])
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif separator is None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [separator.join(rows[0])] + [separator.join(row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    return path


def test_an_unclosed_quote_does_not_swallow_the_rows_after_it(corpus: "Corpus"):
    (corpus.folder / "part.csv").write_text(
        'id,title,text\na,t,"two\nlines, and a ""quote"""\nb,t,"never closed\nc,t,fine\nd,t,fine too\n'
    )
    outcome = corpus.run()
    assert [(row["passage_id"], row["text"]) for row in outcome.rows("passages")] == [
        ("a", 'two\nlines, and a "quote"'),
        ("c", "fine"),
        ("d", "fine too"),
    ]
    assert [(row["line"], row["reason"]) for row in outcome.quarantined] == [
        (4, "broken CSV: unexpected end of data; is a quote not closed?")
    ]


def test_a_csv_field_beyond_the_csv_modules_limit_is_read(corpus: "Corpus"):
    (corpus.folder / "part.csv").write_text(f"id,text\na,{'x' * 200_000}\n")
    assert corpus.run(max_characters=200_000).ids() == ["a"]


def test_csv_lines_are_those_an_editor_shows(corpus: "Corpus"):
    (corpus.folder / "part.csv").write_bytes(b'id,text\r\na,"1\r\n2\r\n3"\r\n\r\nb,x,y\r\nc,\xff\r\nd,\r\n')
    assert [(row["line"], row["reason"]) for row in corpus.run().quarantined] == [
        (6, "3 fields where the header has 2"),
        (7, "not UTF-8 (byte 0xff at position 3 of the line)"),
        (8, 'empty "text"'),
    ]


def test_a_quote_in_tsv_is_a_character_unless_it_closes(corpus: "Corpus"):
    (corpus.folder / "part.tsv").write_text(
        'id\ttext\na\t"Quoted" he said\nb\t"open\nc\t"quoted, ""whole"""\nd\tplain\n'
    )
    assert [row["text"] for row in corpus.run().rows("passages")] == [
        '"Quoted" he said',
        '"open',
        'quoted, "whole"',
        "plain",
    ]


def test_text_that_is_not_utf8_in_parquet_costs_its_row(corpus: "Corpus"):
    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.array([0, 1, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffc")]
    )
    pq.write_table(pa.table({"id": [1, 2, 3], "text": texts}), corpus.folder / "part.parquet")
    outcome = corpus.run()
    assert outcome.ids() == ["1", "3"]
    assert [(row["source"], row["line"], row["reason"]) for row in outcome.quarantined] == [
        ("part.parquet", 2, "not UTF-8")
    ]


def test_parquet_rows_are_numbered_through_the_file(corpus: "Corpus"):
    texts = ["x"] * 2_500
    texts[2_100] = ""
    ids = [str(n) for n in range(2_500)]
    pq.write_table(pa.table({"id": ids, "text": texts}), corpus.folder / "part.parquet", row_group_size=700)
    assert [(row["line"], row["row_id"]) for row in corpus.run().quarantined] == [(2_101, "2100")]


def test_a_corrupt_parquet_file_is_named(corpus: "Corpus"):
    pq.write_table(pa.table({"id": ["a"], "text": ["x"]}), corpus.folder / "part.parquet")
    whole = (corpus.folder / "part.parquet").read_bytes()
    (corpus.folder / "part.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RayrieverError, match=r"part\.parquet: cannot be read .*Check that it is whole"):
        corpus.run()


def test_documentation_of_a_package_becomes_passages(corpus: "Corpus"):
    rows = {row["passage_id"]: row for row in corpus.run("pydoc:json").rows("passages")}
    dumps = rows["json.dumps"]
    assert dumps["title"] == "json.dumps"
    assert dumps["source"] == "json"
    signature, docstring = dumps["text"].split("\n", 1)
    assert signature.startswith("(obj, *, skipkeys=False")
    assert docstring.startswith("Serialize ``obj`` to a JSON formatted ``str``.")


def test_an_unknown_package_is_a_readable_error(corpus: "Corpus"):
    with pytest.raises(RayrieverError, match=r"corpus pydoc:no_such_package: .*Correct corpus\.path, or install"):
        corpus.run("pydoc:no_such_package")
