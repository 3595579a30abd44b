"""The command line: readable messages, exit codes, JSON."""

import contextlib
import gzip
import json
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
import typer
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.cli.terminal import out, print_json, readable_errors
from pipeline.llm.responses import Answer, to_table
from pipeline.llm.store import Ledger, ResponseStore
from pipeline.workspace import Workspace

runner = CliRunner()
# A run in this process would start a Ray of its own, in the way of the one that all tests share
pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"_id": str(n), "title": "t", "text": f"passage number {n} is about thing {n * 7}"} for n in range(1000)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path


def recipe(folder: Path, **sections) -> str:
    path = folder / "recipe.yaml"
    values = {"workspace": str(folder / "workspace"), "corpus": {"path": str(folder / "corpus.jsonl")}}
    path.write_text(yaml.safe_dump(values | sections))
    return str(path)


def failed(*arguments: str) -> str:
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def test_three_broken_lines_in_a_thousand_finish_and_are_listed(folder: Path):
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    lines[10], lines[500], lines[999] = "{broken", '{"_id": "500", "text": ""}', '{"_id": "7", "text": "again"}'
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    result = runner.invoke(app, ["run", recipe(folder), "--until", "corpus", "--json"])
    assert result.exit_code == 0, result.output
    manifest = json.loads(result.stdout)["corpus"]
    assert manifest["quarantined"] == 3 and manifest["tables"]["passages"]["rows"] == 997


def test_too_many_broken_lines_fail_and_name_the_first(folder: Path):
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    (folder / "corpus.jsonl").write_text("\n".join([*lines[:800], *["{broken"] * 200]))
    message = failed("run", recipe(folder), "--until", "corpus")
    assert "200 of 1,000 rows" in message and "corpus.jsonl:801" in message and "max_bad_share" in message


def test_truncated_gzip_names_the_file(folder: Path):
    content = gzip.compress((folder / "corpus.jsonl").read_bytes())
    (folder / "corpus.jsonl.gz").write_bytes(content[: len(content) // 2])
    message = failed("run", recipe(folder, corpus={"path": str(folder / "corpus.jsonl.gz")}), "--until", "corpus")
    assert "corpus.jsonl.gz" in message


def test_missing_column_names_what_there_is(folder: Path):
    (folder / "rows.csv").write_text("number,words\n1,hello there\n")
    message = failed("run", recipe(folder, corpus={"path": str(folder / "rows.csv")}), "--until", "corpus")
    assert "number" in message and "corpus.id_field" in message


def test_unknown_key_unknown_stage_and_missing_recipe(folder: Path):
    assert "did you mean 'llm'" in failed("plan", recipe(folder, llmm={}))
    assert "the recipe has no stage 'train'" in failed("run", recipe(folder), "--from", "train")
    assert "absent.yaml" in failed("run", str(folder / "absent.yaml"))


def test_missing_corpus_is_named_before_anything_runs(folder: Path):
    assert str(folder / "gone.jsonl") in failed("run", recipe(folder, corpus={"path": str(folder / "gone.jsonl")}))


def test_unwritable_workspace_is_a_message(folder: Path):
    (folder / "file").write_text("x")
    message = failed("run", recipe(folder, workspace=str(folder / "file/workspace")), "--until", "corpus")
    assert "cannot be written" in message


def test_unreachable_llm_leaves_earlier_artifacts_intact(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-value")
    llm = {"engine": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    path = recipe(folder, llm=llm, queries={"generate": 8})
    message = failed("run", path)
    assert "127.0.0.1:9" in message and "sk-secret-value" not in message
    state = json.loads(runner.invoke(app, ["status", path, "--json"]).stdout)["stages"]
    assert state["corpus"] is not None and state["queries"] is None
    assert not (folder / "workspace/stages/queries").exists() or not list(
        (folder / "workspace/stages/queries").rglob("manifest.json")
    )


def test_full_disk_is_a_message_and_finished_stages_stay(folder: Path):
    small = folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        path = recipe(folder, workspace=str(small / "workspace"), queries={"generate": 40, "kinds": ["crop"]})
        assert runner.invoke(app, ["run", path, "--until", "corpus"]).exit_code == 0
        with (small / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(os.urandom(4096))
        os.truncate(small / "ballast", (small / "ballast").stat().st_size - 8192)  # room to begin, not to end
        assert "disk is full" in failed("run", path, "--until", "queries")
        (small / "ballast").unlink()
        result = runner.invoke(app, ["run", path, "--until", "queries"])
        assert result.exit_code == 0 and "corpus        reused" in result.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_plan_writes_nothing_and_status_shows_what_is_there(folder: Path):
    path = recipe(folder)
    planned = json.loads(runner.invoke(app, ["plan", path, "--json"]).stdout)
    assert {row["action"] for row in planned} == {"run"}
    assert planned[0]["rows"] == pytest.approx(1000, rel=0.05) and planned[2]["llm_requests"] > 0
    assert not (folder / "workspace").exists()
    assert runner.invoke(app, ["run", path, "--until", "corpus"]).exit_code == 0
    planned = json.loads(runner.invoke(app, ["plan", path, "--json"]).stdout)
    assert [row["action"] for row in planned[:2]] == ["reuse", "run"]
    assert planned[0]["rows"] == 1000 and "examples" not in planned[0]
    table = runner.invoke(app, ["status", path]).stdout
    assert "done" in table and "to do" in table


def test_changed_corpus_runs_again(folder: Path):
    path = recipe(folder)
    runner.invoke(app, ["run", path, "--until", "corpus"])
    with (folder / "corpus.jsonl").open("a") as stream:
        stream.write('{"_id": "new", "text": "one more passage"}\n')
    manifest = json.loads(runner.invoke(app, ["run", path, "--until", "corpus", "--json"]).stdout)["corpus"]
    assert manifest["tables"]["passages"]["rows"] == 1001


def test_report_and_search_before_a_run_say_what_to_do(folder: Path):
    path = recipe(folder)
    assert "rayriever run" in failed("report", path)
    assert "rayriever run" in failed("search", path, "a query")


def test_doctor_finds_what_is_missing_and_looks_at_everything_else(folder: Path):
    llm = {"engine": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    result = runner.invoke(app, ["doctor", recipe(folder, llm=llm), "--json"])
    assert result.exit_code == 1, result.output
    states = {check["name"]: check["state"] for check in json.loads(result.stdout)}
    assert states.pop("llm") == "failed"
    assert set(states) == {"versions", "workspace", "disk", "torch", "encoder", "corpus", "ray"}
    assert "failed" not in states.values()


def test_keys_lists_every_section(folder: Path):
    names = [key["name"] for key in json.loads(runner.invoke(app, ["keys", "--json"]).stdout)]
    assert {"workspace", "corpus.path", "llm.model", "distill.loss"} <= set(names)
    assert "index.shards" in runner.invoke(app, ["keys", "index"]).stdout


def test_plan_needs_no_model_where_nothing_is_asked_and_knows_finished_queries(folder: Path):
    """Recorded answers and crops run on machines where no model is."""
    path = recipe(
        folder,
        llm={"model": "pypi:not-there-at-all"},
        queries={"generate": 40, "kinds": ["crop"], "test_share": 0.1, "dev_share": 0.1},
        synthesis={"max_queries": 0},
    )
    assert runner.invoke(app, ["plan", path]).exit_code == 0
    result = runner.invoke(app, ["run", path, "--until", "queries", "--json"])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)["queries"]["tables"]["queries"]["rows"]
    rows = {row["stage"]: row for row in json.loads(runner.invoke(app, ["plan", path, "--json"]).stdout)}
    assert rows["queries"]["rows"] == rows["distill"]["rows"] == made > 0
    assert rows["queries"]["action"] == "reuse" and rows["synthesis"]["rows"] == 0


def test_plan_counts_every_request_and_survives_an_odd_query(folder: Path):
    odd = [{"_id": "q1", "text": "half \ud800 a pair"}, {"_id": "q2", "text": "a question about things"}]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, odd)) + "\n" + "[" * 5000 + "\n")
    (folder / "qrels").mkdir()
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq2\tp1\t1\n")
    kinds = ["question", "keywords", "claim"]
    for count in (1, 2, 7):
        path = recipe(folder, queries={"path": str(folder), "generate": count, "kinds": kinds})
        result = runner.invoke(app, ["plan", path, "--json"])
        assert result.exit_code == 0, result.output
        assert {row["stage"]: row for row in json.loads(result.stdout)}["queries"]["llm_requests"] == count


def test_plan_and_status_say_what_it_costs(folder: Path):
    """Nobody starts a million calls without a price; nobody learns of it from the provider's bill."""
    price = {"input": 2.0, "cached_input": 1.0, "output": 10.0}
    llm = {"engine": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "price": price}
    path = recipe(folder, llm=llm, queries={"generate": 100})
    planned = runner.invoke(app, ["plan", path])
    rows = json.loads(runner.invoke(app, ["plan", path, "--json"]).stdout)
    tokens_in, tokens_out = (sum(row[f"llm_tokens_{way}"] for row in rows) for way in ("in", "out"))
    assert f", {(2 * tokens_in + 10 * tokens_out) / 1e6:,.2f} by llm.price" in " ".join(planned.stdout.split())

    workspace = Workspace(str(folder / "workspace"))
    Ledger(workspace).record(pa.array(["a", "b"]), pa.array(["question"] * 2), "m", "run")
    answer = Answer("a", "text", "stop", 3_000_000, 100_000, 1, tokens_cached=1_000_000)
    ResponseStore(workspace).add(to_table([answer]), pa.array(["question"]), "m")
    shown = runner.invoke(app, ["status", path], env={"COLUMNS": "120"})
    (line,) = [line for line in shown.stdout.splitlines() if line.split()[:2] == ["question", "m"]]
    assert line.split()[2:] == ["2", "1", "3,000,000", "1,000,000", "100,000", "6.00"]
    everything, questions = folder / "all.jsonl", folder / "questions.jsonl.gz"
    assert "1 answers written" in runner.invoke(app, ["answers", path, "--out", str(everything)]).stdout
    assert json.loads(everything.read_text())["text"] == "text"
    only = runner.invoke(app, ["answers", path, "--for", "question", "--out", str(questions), "--json"])
    assert json.loads(only.stdout) == {"rows": 1} and questions.exists()
    assert "none for 'verdicts', only for question" in failed("answers", path, "--for", "verdicts", "--out", "x")
    assert "budget.max_cost needs price" in failed("plan", recipe(folder, llm={"budget": {"max_cost": 5}}))


def test_what_libraries_print_does_not_get_between_the_results(capsys: pytest.CaptureFixture[str]):
    """Ray prints "(raylet) a worker died" to stdout: `--json` would be no JSON."""
    with readable_errors():
        print("(raylet) a worker died")
        print_json({"rows": 1})
        out.print("a table")
    shown = capsys.readouterr()
    assert json.loads(shown.out.replace("a table", "")) == {"rows": 1} and "a table" in shown.out
    assert "raylet" in shown.err


@pytest.mark.parametrize(("goes_on", "words"), [(True, "goes on from here"), (False, "begins again")])
def test_stopped_command_says_whether_it_goes_on(goes_on: bool, words: str, capsys: pytest.CaptureFixture[str]):
    """Who stops a calibration must not count on what it had measured."""
    with pytest.raises(typer.Exit) as ended, readable_errors(goes_on):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130 and words in capsys.readouterr().err
