"""`rayriever aggregate`: several runs as one, measured beside them."""

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app

runner = CliRunner()
RUNS = {"x/run": "b a c", "y/run": "c a b", "z": "a c b"}


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Three runs of one query, two of a name; the passage that counts is a."""
    for name, ids in RUNS.items():
        path = tmp_path / f"{name}.trec"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"q Q0 {each} {rank} {rank} tag\n" for rank, each in enumerate(ids.split(), start=1)))
    return [str(tmp_path / f"{name}.trec") for name in RUNS]


TREC = "q 0 a 1\nq 0 b 0\nother 0 a 1\n"
BEIR = "query-id\tcorpus-id\tscore\nq\ta\t1\nq\tb\t0\nother\ta\t1\n"


@pytest.mark.parametrize("qrels", [TREC, BEIR])
def test_every_run_and_the_merged_one_are_measured(runs: list[str], tmp_path: Path, qrels: str):
    """a is second in two runs and first in one; a query without hits counts 0, so that every figure is halved."""
    (tmp_path / "qrels").write_text(qrels)
    arguments = ["aggregate", *runs[:2], "--qrels", str(tmp_path / "qrels"), "--baseline", runs[2], "--json"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["run"] for row in rows] == ["z", "run", "run", "aggregate"]
    second = 0.6309297536 / 2
    assert [row["ndcg_at_10"] for row in rows] == pytest.approx([0.5, second, second, second])
    assert {(row["queries"], row["judged_queries"]) for row in rows} == {(1, 2)}
    merged = json.loads(runner.invoke(app, ["aggregate", *runs, *arguments[3:5], "--json"]).stdout)[-1]
    assert merged["ndcg_at_10"] == pytest.approx(0.5), "places of a are 2, 2 and 1: the best mean"
    assert "0.500" in runner.invoke(app, arguments[:-1]).stdout


def test_merged_run_is_written_and_read_again(runs: list[str], tmp_path: Path):
    target = tmp_path / "out" / "merged.trec.gz"
    result = runner.invoke(app, ["aggregate", str(tmp_path / "*" / "run.trec"), runs[2], "--output", str(target)])
    assert result.exit_code == 0 and "1 lists written" in result.stdout, result.output
    with gzip.open(target, "rt") as stream:
        assert [line.split()[2:4] for line in stream] == [["a", "1"], ["c", "2"], ["b", "3"]]
    again = runner.invoke(app, ["aggregate", str(target), "--depth", "2", "--output", str(tmp_path / "two.trec")])
    assert again.exit_code == 0 and (tmp_path / "two.trec").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --qrels to measure"),
        (["--qrels", "absent"], "absent: cannot be read"),
        (["--qrels", "{broken}"], "broken:2: not a judgment"),
        (["--qrels", "{twice}"], "twice:2: passage 'a' has two grades"),
        (["--qrels", "{beir}"], "beir:2: not a judgment, which is written query-id"),
        (["--qrels", "{empty}"], "--qrels has no judgment"),
        (["--output", "x", "--baseline", "absent.trec"], "there is no such file"),
    ],
)
def test_what_is_missing_or_broken_is_named(runs: list[str], tmp_path: Path, options: list[str], message: str):
    files = {"broken": "q 0 a 1\nq 0 b one\n", "twice": "q 0 a 1\nq 0 a 0\n", "empty": "\n"}
    files["beir"] = "query-id\tcorpus-id\tscore\nq\ta\n"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    places = {name: str(tmp_path / name) for name in files}
    result = runner.invoke(app, ["aggregate", *runs, *(option.format(**places) for option in options)])
    assert result.exit_code == 1 and message in " ".join(result.stderr.split()), result.output
