"""`rayriever prompt`: what the LLM is asked, before it is paid."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.llm.prompts import tasks

runner = CliRunner()


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A recipe whose stages up to the queries are finished."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    rows = [
        {"_id": str(n), "title": f"title {n}", "text": f"passage number {n} is about thing {n * 7}"} for n in range(9)
    ]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    queries = [{"_id": f"q{n}", "text": f"what is thing {n * 7}?"} for n in range(3)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n")
    pairs = "".join(f"q{n}\t{n}\t1\n" for n in range(3))
    (folder / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{pairs}")
    path = tmp_path / "recipe.yaml"
    sections = {"corpus": {"path": str(folder)}, "queries": {"generate": 0, "dev_share": 0, "test_share": 0}}
    path.write_text(yaml.safe_dump({"workspace": str(tmp_path / "workspace"), **sections}))
    return str(path)


def finish(recipe: str, until: str) -> None:
    result = runner.invoke(app, ["run", recipe, "--until", until])
    assert result.exit_code == 0, result.output


def rendered(task: str, recipe: str) -> dict[str, object]:
    result = runner.invoke(app, ["prompt", "render", task, recipe, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_every_task_renders_with_rows_of_the_recipe(recipe: str):
    finish(recipe, "queries")
    for task in tasks():
        shown = rendered(task, recipe)
        text = " ".join(message["content"] for message in shown["messages"])
        assert task == "verdict_again" or "thing" in text, task
        assert shown["sampling"]["max_tokens"] > 0
    assert "what is thing 0?" in rendered("verdict", recipe)["messages"][-1]["content"]
    assert "passage number 0" in rendered("verdict", recipe)["messages"][-1]["content"]
    drawn = {"temperature": 0.0, "seed": None, "choices": [], "ranks_choices": False}
    assert rendered("verdict", recipe)["sampling"] == {**drawn, "max_tokens": 8}
    ranked = {**drawn, "choices": ["A", "B"], "ranks_choices": True}
    assert rendered("setwise", recipe)["sampling"] == {**ranked, "max_tokens": 1}
    turns = [message["role"] for message in rendered("permutation_again", recipe)["messages"]]
    assert turns == ["system", "user", "assistant", "user"]


def test_rendering_before_its_stage_says_what_to_run(recipe: str):
    for task, stage in (("question", "corpus"), ("positive", "corpus")):
        result = runner.invoke(app, ["prompt", "render", task, recipe])
        assert result.exit_code == 1 and f"--until {stage}" in " ".join(result.stderr.split())
    assert "there is no task 'sonnet'" in runner.invoke(app, ["prompt", "render", "sonnet", recipe]).stderr


def test_shown_file_is_a_beginning_for_an_own_one(recipe: str, tmp_path: Path):
    """What `show` prints must be a whole prompt file, and what the recipe names must be what is asked."""
    printed = runner.invoke(app, ["prompt", "show", "question"]).stdout
    (tmp_path / "own.jinja").write_text(printed.replace("one short question", "one LONG question"))
    finish(recipe, "corpus")
    changed = ["--set", f"llm.prompts.question={tmp_path / 'own.jinja'}"]
    result = runner.invoke(app, ["prompt", "render", "question", recipe, *changed])
    assert result.exit_code == 0 and "Write one LONG question" in result.stdout, result.output
    listed = runner.invoke(app, ["prompt", "list", "--recipe", recipe, *changed, "--json"])
    files = {row["task"]: row["file"] for row in json.loads(listed.stdout)}
    assert files["question"] == str(tmp_path / "own.jinja") and files["claim"].endswith("prompts/claim.jinja")
