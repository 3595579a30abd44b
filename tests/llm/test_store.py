"""The response store and the ledger: what is written survives, what is broken harms nothing, nothing counts twice."""

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.llm import parts
from pipeline.llm.responses import Answer, failure, to_table
from pipeline.llm.store import Ledger, LlmTotals, ResponseStore, Usage, totals
from pipeline.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path / "w"))


def add(workspace: Workspace, *answers: Answer, purpose: str = "question") -> None:
    ResponseStore(workspace).add(to_table(answers), pa.array([purpose] * len(answers)), "m")


def good(name: str, text: str = "") -> Answer:
    return Answer(name, text or f"text {name}", "stop", 5, 7, 1)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts may be merged as soon as they are there."""
    monkeypatch.setattr(parts, "_SETTLED_S", -1.0)


def found(workspace: Workspace, *names: str) -> list[str]:
    return ResponseStore(workspace).lookup(pa.chunked_array([list(names)], pa.string()))["request_id"].to_pylist()


def send(workspace: Workspace, *names: str, purpose: str = "question") -> None:
    count = len(names)
    Ledger(workspace).record(pa.array(names), pa.array([purpose] * count), "m", "run-1")


def test_lookup_returns_what_is_there_and_only_that(workspace: Workspace):
    add(workspace, good("a"), good("b"))
    add(workspace, good("c"))
    assert found(workspace, "c", "x", "a") == ["a", "c"]
    assert found(workspace) == []


def test_failures_are_not_remembered_as_answers(workspace: Workspace):
    """A cached error would make every rerun fail without asking again."""
    add(workspace, good("a"), failure("b", "timeout", 3))
    assert found(workspace, "a", "b") == ["a"]


def test_part_cut_short_by_a_kill_costs_only_itself(workspace: Workspace):
    add(workspace, good("a"))
    add(workspace, good("b"))
    first, second = (Path(path) for path in workspace.list_files("llm", "responses"))
    second.write_bytes(second.read_bytes()[:100])
    (first.parent / f"{first.name}.17.tmp").write_bytes(b"PAR1")
    (first.parent / "part-0-empty.parquet").write_bytes(b"")
    assert found(workspace, "a", "b") == ["a"]


def test_compaction_keeps_every_answer_and_spares_what_it_cannot_read(workspace: Workspace, settled: None):
    for number in range(40):
        add(workspace, good(f"{number:02d}"))
    broken = Path(workspace.list_files("llm", "responses")[7])
    broken.write_bytes(b"not parquet")
    ResponseStore(workspace).compact()
    assert len(workspace.list_files("llm", "responses")) == 2
    assert broken.read_bytes() == b"not parquet"
    everything = [f"{number:02d}" for number in range(40)]
    assert found(workspace, *everything) == [name for name in everything if name != "07"]


def test_compaction_cut_short_counts_nothing_twice(workspace: Workspace, tmp_path: Path, settled: None):
    """Killed between writing the merged part and deleting the old ones, both are there."""
    for number in range(40):
        send(workspace, f"{number:02d}")
        add(workspace, good(f"{number:02d}"))
    shutil.copytree(tmp_path / "w" / "llm", tmp_path / "before")
    Ledger(workspace).compact()
    ResponseStore(workspace).compact()
    shutil.copytree(tmp_path / "before", tmp_path / "w" / "llm", dirs_exist_ok=True)
    assert len(workspace.list_files("llm", "sent")) == 41
    assert totals(workspace).usages == (Usage("question", "m", 40, 40, 200, 280, 0),)


def test_choice_between_two_answers_does_not_depend_on_file_order(workspace: Workspace):
    add(workspace, good("a", "later in the alphabet"))
    add(workspace, good("a", "earlier in the alphabet"))
    rows = ResponseStore(workspace).lookup(pa.chunked_array([["a"]]))
    assert rows["text"].to_pylist() == ["earlier in the alphabet"]


def test_every_answer_can_be_taken_out_once(workspace: Workspace, tmp_path: Path):
    """What was paid for must not be locked in."""
    add(workspace, good("b"), good("a", "later"), failure("c", "no", 1))
    add(workspace, good("a", "earlier"), purpose="verdict")
    rows = list(ResponseStore(workspace).rows())
    assert [(row["request_id"], row["text"], row["purpose"]) for row in rows] == [
        ("a", "earlier", "verdict"),
        ("b", "text b", "question"),
    ]
    assert rows[1] | {"tokens_in": 5, "tokens_out": 7, "model": "m", "finish_reason": "stop"} == rows[1]
    assert list(ResponseStore(Workspace(str(tmp_path / "empty"))).rows()) == []


def test_totals_show_what_was_sent_in_vain(workspace: Workspace):
    assert totals(workspace) == LlmTotals(())
    send(workspace, "a", "b")
    send(workspace, "c", purpose="positive")
    add(workspace, good("a"))
    counted = totals(workspace)
    assert counted.usages == (Usage("positive", "m", 1, 0, 0, 0, 0), Usage("question", "m", 2, 1, 5, 7, 0))
    assert (counted.sent, counted.answered, counted.tokens_in, counted.tokens_out) == (3, 1, 5, 7)


def test_one_writer_makes_few_files_and_loses_nothing_at_any_moment(workspace: Workspace, tmp_path: Path):
    """A file per answer would be a million files; a part rewritten in place must be whole whenever somebody looks."""
    store = ResponseStore(workspace)
    for number in range(300):
        store.add(to_table([good(f"{number:03d}", "word " * 200)]), pa.array(["question"]), "m")
        if number % 60 == 0:
            assert len(found(workspace, *(f"{n:03d}" for n in range(300)))) == number + 1
    files = workspace.list_files("llm", "responses")
    assert 2 <= len(files) < 12
    assert found(workspace, *(f"{n:03d}" for n in range(300))) == [f"{n:03d}" for n in range(300)]


def test_part_merged_while_the_store_is_read_is_not_missed(
    workspace: Workspace, settled: None, monkeypatch: pytest.MonkeyPatch
):
    """Another run compacts: an answer that was paid for would seem to be lost."""
    monkeypatch.setattr(parts, "_ROWS_AT_A_TIME", 1)
    everything = {f"{number:02d}" for number in range(60)}
    for name in sorted(everything):
        add(workspace, good(name))
    scan = ResponseStore(workspace).scan(["request_id"])
    seen = set(next(scan)["request_id"].to_pylist())
    ResponseStore(workspace).compact()
    for rows in scan:
        seen |= set(rows["request_id"].to_pylist())
    assert seen == everything


WRITER = """
import sys
import time
import pyarrow as pa
from pipeline.llm import parts
from pipeline.llm.responses import Answer, to_table
from pipeline.llm.store import ResponseStore
from pipeline.workspace import Workspace

parts._GROWS_S, parts._SETTLED_S, parts._WORTH_MERGING = 0.05, 0.3, 2
folder, name = sys.argv[1:]
store = ResponseStore(Workspace(folder))
for number in range(150):
    store.add(to_table([Answer(f"{name}-{number:03d}", "text", "stop", 5, 7, 1)]), pa.array(["question"]), "m")
    if number % 10 == 9:
        time.sleep(0.1)
        ResponseStore(Workspace(folder)).compact()
"""


def test_two_runs_that_write_and_merge_at_once_lose_nothing(workspace: Workspace, tmp_path: Path):
    """The same workspace, in two terminals or on two machines."""
    command = [sys.executable, "-c", WRITER, workspace.uri]
    writers = [subprocess.Popen([*command, name]) for name in ("one", "two")]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    everything = sorted(f"{name}-{number:03d}" for name in ("one", "two") for number in range(150))
    assert found(workspace, *everything) == everything
    assert len(workspace.list_files("llm", "responses")) < 100, "nothing was merged"
    assert [row["request_id"] for row in ResponseStore(workspace).rows()] == everything


def test_part_that_still_grows_is_not_merged(workspace: Workspace):
    """What is appended between reading and deleting it would be lost."""
    for number in range(40):
        add(workspace, good(f"{number:02d}"))
    ResponseStore(workspace).compact()
    assert len(workspace.list_files("llm", "responses")) == 40


def test_part_of_an_earlier_version_is_read(workspace: Workspace):
    """An answer that was paid for must not be lost to a new column."""
    add(workspace, good("a"))
    (path,) = workspace.list_files("llm", "responses")
    pq.write_table(pq.read_table(path).drop_columns(["tokens_cached"]), path)
    assert found(workspace, "a") == ["a"]
    assert totals(workspace).usages == (Usage("question", "m", 0, 1, 5, 7, 0),)
