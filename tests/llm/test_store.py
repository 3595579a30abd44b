"""The response store and the ledger: what is written survives, what is broken harms nothing, nothing counts twice."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

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


def found(workspace: Workspace, *names: str) -> list[str]:
    return ResponseStore(workspace).lookup(pa.chunked_array([list(names)], pa.string()))["request_id"].to_pylist()


def send(workspace: Workspace, *names: str, purpose: str = "question") -> None:
    count = len(names)
    ids, purposes, ones = pa.array(names), pa.array([purpose] * count), pa.array([1] * count)
    Ledger(workspace).record(ids, purposes, ones, "m", "run-1")


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


def test_compaction_keeps_every_answer_and_spares_what_it_cannot_read(workspace: Workspace):
    for number in range(40):
        add(workspace, good(f"{number:02d}"))
    broken = Path(workspace.list_files("llm", "responses")[7])
    broken.write_bytes(b"not parquet")
    ResponseStore(workspace).compact()
    assert len(workspace.list_files("llm", "responses")) == 2
    assert broken.read_bytes() == b"not parquet"
    everything = [f"{number:02d}" for number in range(40)]
    assert found(workspace, *everything) == [name for name in everything if name != "07"]


def test_compaction_cut_short_counts_nothing_twice(workspace: Workspace, tmp_path: Path):
    """Killed between writing the merged part and deleting the old ones, both are there."""
    for number in range(40):
        send(workspace, f"{number:02d}")
        add(workspace, good(f"{number:02d}"))
    shutil.copytree(tmp_path / "w" / "llm", tmp_path / "before")
    Ledger(workspace).compact()
    ResponseStore(workspace).compact()
    shutil.copytree(tmp_path / "before", tmp_path / "w" / "llm", dirs_exist_ok=True)
    assert len(workspace.list_files("llm", "sent")) == 41
    assert totals(workspace).usages == (Usage("question", "m", 40, 40, 200, 280),)


def test_choice_between_two_answers_does_not_depend_on_file_order(workspace: Workspace):
    add(workspace, good("a", "later in the alphabet"))
    add(workspace, good("a", "earlier in the alphabet"))
    rows = ResponseStore(workspace).lookup(pa.chunked_array([["a"]]))
    assert rows["text"].to_pylist() == ["earlier in the alphabet"]


def test_totals_show_what_was_sent_in_vain(workspace: Workspace):
    assert totals(workspace) == LlmTotals(())
    send(workspace, "a", "b")
    send(workspace, "c", purpose="positive")
    add(workspace, good("a"))
    counted = totals(workspace)
    assert counted.usages == (Usage("positive", "m", 1, 0, 0, 0), Usage("question", "m", 2, 1, 5, 7))
    assert (counted.sent, counted.answered, counted.tokens_in, counted.tokens_out) == (3, 1, 5, 7)
