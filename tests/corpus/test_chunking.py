"""Documents become chunks that say where they come from."""

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from pipeline.corpus.chunking import chunk_document
from pipeline.corpus.html import parse_html
from pipeline.corpus.markdown import parse_markdown
from pipeline.corpus.outline import outline

if TYPE_CHECKING:
    from tests.corpus.conftest import Corpus


def _words(first: int, after: int) -> str:
    return " ".join(f"w{number}" for number in range(first, after))


def test_offsets_point_at_the_chunk_in_the_file(corpus: "Corpus"):
    paragraphs = [f"Absatz {n}: übergroße Wörter,\ttabs 🙂  and {_words(0, 30)}." for n in range(40)]
    (corpus.folder / "a.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(paragraphs).encode())
    (corpus.folder / "b.md").write_bytes(("# Eins\r\n\r\n" + "\r\n## Zwei\r\n".join(paragraphs)).encode())
    rows = corpus.run(chunk_words=50, chunk_overlap_words=10).rows("passages")
    sources = {name: (corpus.folder / name).read_bytes().decode("utf-8-sig") for name in ("a.txt", "b.md")}
    assert {row["source"] for row in rows} == set(sources)
    assert all(sources[row["source"]][row["start"] : row["end"]] == row["text"] for row in rows)
    assert all(row["text"] == row["text"].strip() for row in rows)


def test_every_word_lands_in_a_chunk_and_the_overlap_is_exact():
    text = _words(0, 1_000)
    spans = [text[c.start : c.end].split() for c in chunk_document(outline(text, (), "n"), 160, 30)]
    assert all(len(words) <= 160 for words in spans)
    assert all(before[-30:] == after[:30] for before, after in pairwise(spans))
    rebuilt = spans[0] + [word for words in spans[1:] for word in words[30:]]
    assert rebuilt == text.split()


@pytest.mark.parametrize("overlap", [0, 1, 19])
def test_any_overlap_comes_to_an_end(overlap: int):
    text = ". ".join(_words(n, n + 3) for n in range(40))
    chunks = list(chunk_document(outline(text, (), "n"), 20, overlap))
    assert chunks[-1].end == len(text)
    assert [c.start for c in chunks] == sorted({c.start for c in chunks})


def test_a_chunk_ends_with_a_paragraph_before_a_sentence_before_a_line():
    def first_chunk(text: str) -> str:
        chunk = next(chunk_document(outline(text, (), "n"), 30, 0))
        return text[chunk.start : chunk.end].split()[-1]

    assert first_chunk(f"{_words(0, 22)}\n\n{_words(22, 25)}. {_words(25, 27)}\n{_words(27, 60)}") == "w21"
    assert first_chunk(f"{_words(0, 25)}. {_words(25, 27)}\n{_words(27, 60)}") == "w24."
    assert first_chunk(f"{_words(0, 27)}\n{_words(27, 60)}") == "w26"
    assert first_chunk(f"{_words(0, 10)}.\n\n{_words(10, 60)}") == "w29"


def test_text_without_spaces_is_cut_too():
    text = "検索は楽しい。" * 100 + "A" * 2_000
    chunks = list(chunk_document(outline(text, (), "n"), 50, 0))
    assert "".join(text[c.start : c.end] for c in chunks) == text
    assert max(c.end - c.start for c in chunks[:10]) <= 50


def test_headings_start_chunks_and_form_the_title():
    text = (
        "Preamble.\n\n# Guide\n\nAbout it.\n\n## Install\n\n### [Linux](x) *and* `BSD` {#l}\n\napt\n\n"
        "Windows\n-------\n\nmsi\n\n# Other\n\nend\n"
    )
    document = parse_markdown(text, "guide.md")
    chunks = [(c.title, text[c.start : c.end]) for c in chunk_document(document, 160, 30)]
    assert chunks == [
        ("guide.md", "Preamble."),
        ("Guide", "About it."),
        ("Guide > Install > Linux and BSD", "apt"),
        ("Guide > Windows", "msi"),
        ("Other", "end"),
    ]


@pytest.mark.parametrize("code", ["```sh\n# run\n```", "~~~\n# run\n~~~", "    # run", "> # run", "- # run"])
def test_a_hash_in_code_or_quotes_is_no_heading(code: str):
    document = parse_markdown(f"# Guide\n\nfirst\n\n{code}\n\nlast\n", "guide.md")
    assert [section.path for section in document.sections] == [("Guide",)]


def test_front_matter_is_a_title_and_no_text():
    text = '---\ntitle: "The Guide"\nlayout: page\n---\nHello\n\n# Install\n\napt\n'
    document = parse_markdown(text, "guide.md")
    assert [(s.path, text[s.start : s.end].strip()) for s in document.sections] == [
        (("The Guide",), "Hello"),
        (("The Guide", "Install"), "apt"),
    ]


def test_a_heading_without_text_below_is_not_lost():
    text = "# Guide\n\n## Supported\n\n## Unsupported: Windows\n"
    document = parse_markdown(text, "guide.md")
    assert [text[s.start : s.end].strip() for s in document.sections] == [
        "## Supported",
        "## Unsupported: Windows",
    ]


def test_html_becomes_what_a_reader_sees():
    document = parse_html(
        "<html><head><title> The\nGuide </title><style>p {}</style></head><body><nav>Home</nav>"
        "<h1>the guide<a href='#g'>¶</a></h1><p>Hello <b>bold</b>, world.\n Next</p><!-- no -->"
        "<h2>Install <code>x</code></h2><ul><li>one</li><li>two<br>three</li></ul>"
        "<pre>if x:\n    <span>pass</span></pre><script>var a</script>"
        "<table><tr><td>a</td><td>b &amp; c</td></tr><tr><td>d</td></tr></table></body></html>",
        "guide.html",
    )
    assert [(s.path, document.text[s.start : s.end].strip()) for s in document.sections] == [
        (("the guide",), "Hello bold, world. Next"),
        (("the guide", "Install x"), "one\ntwo\nthree\n\nif x:\n    pass\n\na b & c\nd"),
    ]


def test_html_offsets_count_in_the_extracted_text(corpus: "Corpus"):
    markup = f"<title>T</title><h1>A &amp; B</h1><p>{_words(0, 100)}</p><h1>C</h1><p>last</p>"
    (corpus.folder / "page.html").write_text(markup)
    text = parse_html(markup, "page.html").text
    rows = corpus.run(chunk_words=40, chunk_overlap_words=5).rows("passages")
    assert [text[row["start"] : row["end"]] for row in rows] == [row["text"] for row in rows]
    assert [row["title"] for row in rows] == ["T > A & B"] * 3 + ["T > C"]
    assert [row["passage_id"] for row in rows] == [f"page.html#{n}" for n in range(4)]


def test_html_in_the_encoding_it_declares_is_read(corpus: "Corpus"):
    (corpus.folder / "old.html").write_bytes('<meta charset="iso-8859-1"><p>café</p>'.encode("latin-1"))
    (corpus.folder / "lies.html").write_bytes('<meta charset="no-such"><p>café</p>'.encode("latin-1"))
    outcome = corpus.run()
    assert [row["text"] for row in outcome.rows("passages")] == ["café"]
    assert outcome.reasons() == ["not UTF-8 (byte 0xe9 at position 31 of the file), nor no-such as it says"]


def test_a_document_in_another_encoding_or_without_text_costs_itself_only(corpus: "Corpus"):
    (corpus.folder / "a.txt").write_text("Fine.")
    (corpus.folder / "b.txt").write_bytes(b"line one\nline two \xe9\n")
    (corpus.folder / "c.md").write_text(" \n")
    outcome = corpus.run()
    assert outcome.ids() == ["a.txt#0"]
    assert [(row["source"], row["line"], row["reason"]) for row in outcome.quarantined] == [
        ("b.txt", 2, "not UTF-8 (byte 0xe9 at position 19 of the file)"),
        ("c.md", None, "no text in this file"),
    ]
