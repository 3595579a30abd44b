"""Which files a path stands for and how they are read."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from pipeline.corpus import beir, stage
from pipeline.corpus.files import list_files
from pipeline.errors import RayrieverError

if TYPE_CHECKING:
    from tests.corpus.conftest import Corpus


def test_a_missing_path_is_named(tmp_path: Path, corpus: "Corpus"):
    with pytest.raises(RayrieverError, match=rf"{tmp_path}/nowhere: there is no such file or folder"):
        corpus.run(tmp_path / "nowhere")


def test_an_empty_folder_and_an_empty_file_are_named(corpus: "Corpus"):
    with pytest.raises(RayrieverError, match=rf"{corpus.folder}: the folder holds no files"):
        corpus.run()
    (corpus.folder / "part.jsonl").write_text("\n")
    with pytest.raises(RayrieverError, match=r"part\.jsonl: holds no rows"):
        corpus.run(corpus.folder / "part.jsonl")


def test_an_unknown_format_is_an_error_that_lists_the_formats(corpus: "Corpus"):
    (corpus.folder / "part.docx").write_text("x")
    with pytest.raises(RayrieverError, match=r"cannot tell the format .*jsonl \(\.jsonl.*parquet.*text \(\.txt"):
        corpus.run()


def test_files_of_several_formats_ask_for_a_choice(corpus: "Corpus"):
    corpus.jsonl("a.jsonl", [corpus.passage(1)])
    (corpus.folder / "readme.md").write_text("About this corpus")
    with pytest.raises(RayrieverError, match=r"several formats: jsonl \(1 files\), text \(1 files\)"):
        corpus.run()
    assert corpus.run(format="jsonl").ids() == ["p1"]
    assert corpus.run(corpus.folder / "*.jsonl").ids() == ["p1"]
    assert corpus.run(format="text").ids() == ["readme.md#0"]


def test_a_beir_folder_reads_its_corpus_and_not_its_queries(corpus: "Corpus"):
    corpus.jsonl("corpus.jsonl", [corpus.passage(1)])
    corpus.jsonl("queries.jsonl", [{"_id": "q1", "text": "a query"}])
    (corpus.folder / "qrels").mkdir()
    (corpus.folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tp1\t1\n")
    assert corpus.run().ids() == ["p1"]
    (corpus.folder / "corpus.jsonl").unlink()
    with pytest.raises(RayrieverError, match=r"a BEIR folder holds corpus\.jsonl"):
        corpus.run(format="beir")


def test_a_named_format_reads_a_file_whatever_its_name(corpus: "Corpus"):
    corpus.jsonl("export.json", [corpus.passage(1)])
    assert corpus.run(corpus.folder / "export.json", format="jsonl").ids() == ["p1"]


def test_globs_match_segment_by_segment(corpus: "Corpus"):
    for name in ("a/x.txt", "a/b/y.txt", "a/b/z.md", "c/x.txt", "top.txt", ".hidden/x.txt", "odd[1].txt"):
        (corpus.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus.folder / name).write_text("words")

    def names(pattern: str) -> list[str]:
        return [file.name for file in list_files(f"{corpus.folder}/{pattern}").files]

    assert names("*.txt") == ["odd[1].txt", "top.txt"]
    assert names("*/x.txt") == ["a/x.txt", "c/x.txt"]
    assert names("**/*.txt") == ["a/b/y.txt", "a/x.txt", "c/x.txt", "odd[1].txt", "top.txt"]
    assert names("a/**") == ["b/y.txt", "b/z.md", "x.txt"]
    assert names("[ac]/?.txt") == ["a/x.txt", "c/x.txt"]
    assert names("odd[1].txt") == ["odd[1].txt"]
    with pytest.raises(RayrieverError, match=r"\*\.csv: no file matches"):
        names("*.csv")


def test_a_link_to_a_parent_folder_does_not_repeat_the_corpus(corpus: "Corpus"):
    (corpus.folder / "a.txt").write_text("words")
    (corpus.folder / "loop").symlink_to(corpus.folder)
    assert corpus.run().ids() == ["a.txt#0"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(corpus: "Corpus"):
    corpus.jsonl("part.jsonl", [corpus.passage(1)]).chmod(0)
    with pytest.raises(RayrieverError, match=r"part\.jsonl: cannot be read .*right to read it"):
        corpus.run()


def test_a_vanished_file_is_named(corpus: "Corpus"):
    corpus.jsonl("part.jsonl", [corpus.passage(1)])
    file = list_files(str(corpus.folder)).files[0]
    (corpus.folder / "part.jsonl").unlink()
    with pytest.raises(RayrieverError, match=r"part\.jsonl: cannot be read"), file.explained_errors():
        file.open()


def test_a_changed_file_changes_the_fingerprint(corpus: "Corpus"):
    path = corpus.jsonl("part.jsonl", [corpus.passage(1)])
    recipe = corpus.recipe()
    before = stage.external(recipe)
    assert before == stage.external(recipe)
    os.utime(path, ns=(1, 1))
    assert stage.external(recipe) == {"files": [["part.jsonl", path.stat().st_size, 1]]} != before


def test_a_collection_that_cannot_be_fetched_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: "Corpus"
):
    def unreachable(*args: object, **kwargs: object) -> None:
        raise requests.ConnectionError("no route to host")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(requests, "get", unreachable)
    with pytest.raises(RayrieverError, match=r"scifact\.zip could not be fetched .*no route.*local folder"):
        corpus.run("beir:scifact")
    assert list(beir.cached_folder("scifact").parent.iterdir()) == []


def test_a_collection_in_the_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: "Corpus"):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = beir.cached_folder("cqadupstack/android")
    folder.mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(json.dumps(corpus.passage(1)))
    assert corpus.run("beir:cqadupstack/android").ids() == ["p1"]
    with pytest.raises(RayrieverError, match=r"in its folders android: name one"):
        corpus.run("beir:cqadupstack")
    with pytest.raises(RayrieverError, match="not the name of a BEIR collection"):
        corpus.run("beir:../secrets")
