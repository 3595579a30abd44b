"""The commands about indexes and collections, on a small finished run."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from tests.small_run import recipe_values, write_corpus

runner = CliRunner()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, ray_cluster: None) -> str:
    """A run without an LLM, up to the base index and the tuned one."""
    folder = tmp_path_factory.mktemp("cli-index")
    write_corpus(folder)
    values = recipe_values(folder, tiny_encoder, "http://127.0.0.1:9/v1")
    values["queries"] = {"generate": 20, "kinds": ["crop"], "dev_share": 0.3, "test_share": 0.1}
    values["synthesis"] = {"max_queries": 0}
    values["negatives"] = {"per_query": 2, "ranks": [1, 5], "max_share_of_positive": None}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    result = runner.invoke(app, ["run", str(path), "--until", "index_tuned"])
    assert result.exit_code == 0, result.output
    return str(path)


def shown(*arguments: str) -> object:
    result = runner.invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def failed(*arguments: str) -> str:
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == 1 and "Traceback" not in result.output, result.output
    return " ".join(result.stderr.split())


def test_info_and_check_say_what_an_index_is_and_finds(recipe: str):
    base, tuned = shown("index", "info", recipe)
    assert (base["encoder"], tuned["encoder"]) == ("base", "tuned")
    assert base["vectors"] == 40 and base["shards"] == 2 and base["spec"]["kind"] == "flat"
    assert base["made_by"]["weights"] != tuned["made_by"]["weights"]
    checked = shown("index", "check", recipe, "--queries", "5")
    assert checked["encoder"] == "tuned" and checked["recall"] == {"1": 1.0, "10": 1.0} and checked["queries"] <= 5
    assert "recall@10" in runner.invoke(app, ["index", "check", recipe, "--encoder", "base"]).stdout
    assert "only of base, tuned" in failed("index", "check", recipe, "--encoder", "other")


def test_a_damaged_index_fails_its_check_by_file(recipe: str):
    folder = Path(shown("index", "info", recipe)[0]["folder"])
    path = folder / "shard-0001.faiss"
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"\1\2\3\4")
    try:
        assert "shard-0001.faiss: its checksum" in failed("index", "check", recipe, "--encoder", "base")
    finally:
        path.write_bytes(content)


def test_mined_hits_leave_as_a_trec_run(recipe: str, tmp_path: Path):
    target = tmp_path / "run.trec"
    written = shown("hits", recipe, "--stage", "mine", "--out", str(target))
    lines = [line.split() for line in target.read_text().splitlines()]
    assert len(lines) == written["rows"] > 0 and {len(line) for line in lines} == {6}
    assert {line[5] for line in lines} == {"index_base"}
    assert "is not finished" in failed("hits", recipe, "--out", str(target))


def test_a_collection_from_publishing_to_compaction(recipe: str, tmp_path: Path):
    assert "collection publish" in failed("collection", "info", recipe)
    assert shown("collection", "publish", recipe)["passages"] == 40
    rows = [
        {"_id": "bread-0", "title": "", "text": "a new text about dough and nothing else"},
        {"_id": "new", "title": "", "text": "something about a lighthouse on the coast"},
    ]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert shown("collection", "add", recipe, str(tmp_path / "new.jsonl"))["passages"] == 41
    (tmp_path / "ids.txt").write_text("boats-1\nboats-2\n\n")
    assert shown("collection", "delete", recipe, "bread-1", f"@{tmp_path / 'ids.txt'}")["generation"] == 3
    compacted = shown("collection", "compact", recipe)
    assert (compacted["generation"], compacted["passages"], compacted["change"]) == (4, 38, "compacted")
    assert shown("collection", "delete", recipe, "unknown")["generation"] == 4
    assert shown("collection", "prune", recipe) == {"deleted": []}, "a minute has not gone by"
    generations = shown("collection", "info", recipe)
    assert [each["generation"] for each in generations][-1] == 4 and generations[0]["encoder"] == "tuned"


def test_a_bad_row_adds_nothing_and_is_named(recipe: str, tmp_path: Path):
    shown("collection", "publish", recipe, "--name", "other")
    (tmp_path / "bad.jsonl").write_text('{"_id": "a", "text": "fine enough"}\n{"_id": "b"}\n')
    message = failed("collection", "add", recipe, str(tmp_path / "bad.jsonl"), "--name", "other")
    assert "bad.jsonl:2" in message and "Nothing was added" in message
    assert "is not there" in failed("collection", "add", recipe, str(tmp_path / "none.jsonl"), "--name", "other")
    assert len(shown("collection", "info", recipe, "--name", "other")) == 1
