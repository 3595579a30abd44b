"""Reading the documentation of installed packages."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.corpus.pydoc import DocumentedObject, fingerprint, read_documentation


@pytest.fixture(scope="module")
def library() -> dict[str, DocumentedObject]:
    return {each.name: each for each in read_documentation("stdlib")}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package whose public function lives in a private module and whose last module cannot be imported."""
    folder = tmp_path / "rr_sample"
    (folder / "tests").mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "from rr_sample._impl import shown\nfrom rr_sample.tools import Tool\n__all__ = ['shown', 'Tool']\n"
    )
    (folder / "_impl.py").write_text("import os\ndef shown(a, env=os.environ):\n    '''Show what there is to see.'''\n")
    (folder / "tools.py").write_text(
        "class _Base:\n    def inherited(self):\n        '''Come from a base class nobody can reach.'''\n"
        "class Tool(_Base):\n    '''Do one thing and well.'''\n"
        "    def terse(self):\n        '''Too few words.'''\n"
        "    def __len__(self):\n        '''Tell how long the tool is.'''\n"
        "    def _hidden(self):\n        '''Do what is nobody else's concern.'''\n"
    )
    (folder / "broken.py").write_text("'''Say why this is broken.'''\nprint('noise')\nraise SystemExit(3)\n")
    (folder / "tests" / "__init__.py").write_text("'''Tests that nobody wants to find.'''\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [each for each in sys.modules if each.split(".")[0] == folder.name]:
        del sys.modules[name]


def test_objects_are_named_as_users_write_them(library: dict[str, DocumentedObject]) -> None:
    expected = {
        *("open", "len", "str.split", "ValueError", "json.dumps", "json.JSONDecodeError", "os.path.join"),
        *("os.getcwd", "asyncio.run", "functools.reduce", "random.randint", "sqlite3.connect", "struct.pack"),
        *("collections.Counter.most_common", "socket.socket.recv", "io.TextIOBase.readline", "http.client"),
        *("argparse.ArgumentParser.add_argument", "concurrent.futures.ThreadPoolExecutor", "typing.Optional"),
        *(
            "pathlib.PurePath.suffix",
            "str.maketrans",
            "time.localtime",
            "importlib.util.spec_from_file_location",
            "hashlib.sha256",
        ),
    }
    assert not expected - library.keys()


def test_no_object_appears_under_a_second_or_private_name(library: dict[str, DocumentedObject]) -> None:
    aliases = {"io.open", "posixpath.join", "posix.getcwd", "asyncio.runners.run", "random.Random.randint"}
    assert not aliases & library.keys()
    assert not [name for name in library if any(part.startswith("_") for part in name.split("."))]
    assert not [each for each in library.values() if each.docstring == "Return repr(self)."]


def test_corpus_is_complete_and_sorted() -> None:
    names = [each.name for each in read_documentation("stdlib")]
    assert 5000 < len(names) < 8000
    assert names == sorted(set(names))


def test_environment_never_reaches_a_passage() -> None:
    script = (
        "from pipeline.corpus.pydoc import read_documentation\n"
        "for each in read_documentation('stdlib'): print(ascii(each))\n"
    )
    outputs = []
    for seed in ("1", "2"):
        environment = {
            "RR_SECRET": f"s3cret-{seed}",
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": ":".join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert "s3cret" not in done.stdout
        assert not done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]


def test_private_modules_and_bases_show_under_public_names(package: Path) -> None:
    names = [each.name for each in read_documentation(package.name)]
    assert names == ["rr_sample.Tool", "rr_sample.Tool.inherited", "rr_sample.shown"]


def test_signature_shows_no_default_that_is_not_plain(package: Path) -> None:
    (shown,) = (each for each in read_documentation(package.name) if each.name == "rr_sample.shown")
    assert shown == DocumentedObject("rr_sample.shown", "(a, env=...)", "Show what there is to see.", "rr_sample")


def test_module_that_leaves_the_process_or_prints_is_skipped_quietly(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "rr_sample.broken" not in {each.name for each in read_documentation(package.name)}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("spec", ["no_such_package", "json,no_such_package", "json.no_such_module", " , "])
def test_unknown_package_is_refused_before_anything_is_read(spec: str) -> None:
    with pytest.raises(ValueError, match="no Python module named"):
        read_documentation(spec)
    with pytest.raises(ValueError, match="no Python module named"):
        fingerprint(spec)


def test_several_modules_are_read_with_their_submodules() -> None:
    names = {each.name for each in read_documentation("json, http.client")}
    assert {"json.dumps", "json.JSONDecoder.decode", "http.client.HTTPConnection.request"} <= names
    assert "http.server" not in names


def test_fingerprint_imports_nothing_and_follows_the_modules(package: Path) -> None:
    before = fingerprint(package.name)
    assert package.name not in sys.modules
    (package / "added.py").write_text("")
    assert fingerprint(package.name) != before
    assert fingerprint("json") != fingerprint("http")
