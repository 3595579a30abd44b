"""A recipe on a cluster that grows and shrinks: Ray's autoscaler, with nodes that are processes of this machine."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.autoscaled import AutoscaledCluster, Group
from pipeline.placement import NODE_GROUP
from tests.small_run import recipe_values, write_corpus, write_like_a_model

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

MEMORY = 2e9
GROUPS = {
    "cpu": Group({"CPU": 2, "memory": MEMORY}, most=2),
    "llm-gpu": Group({"CPU": 2, "GPU": 1, "memory": MEMORY}, most=2),
    "train-gpu": Group({"CPU": 4, "memory": MEMORY}, most=1),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[AutoscaledCluster]:
    with AutoscaledCluster(GROUPS, idle_s=5, environment={"OPENAI_API_KEY": "sk-test"}) as cluster:
        yield cluster


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path, chat_server: Any, cluster: AutoscaledCluster) -> Path:
    chat_server.reply = lambda content, attempt: {**write_like_a_model(content, attempt), "delay_s": 0.2}
    write_corpus(tmp_path)
    values = recipe_values(tmp_path, tiny_encoder, chat_server.url)
    values["ray"] = {"address": cluster.address, "labels": {NODE_GROUP: "cpu"}}
    # Who asks a server needs no GPU, and is placed like who does
    values["llm"] |= {"actors": 2, "placement": {"labels": {NODE_GROUP: "llm-gpu"}, "memory_gb": 1.5}}
    values["distill"] |= {"placement": {"labels": {NODE_GROUP: "train-gpu"}, "memory_gb": 1}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(recipe: Path, cluster: AutoscaledCluster, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), *options]
    return subprocess.run(
        command, cwd=recipe.parent, env=cluster.environment, capture_output=True, text=True, timeout=600
    )


def test_nodes_come_for_a_stage_that_asks_for_them_and_go_when_it_is_over(
    recipe: Path, cluster: AutoscaledCluster
) -> None:
    done = run(recipe, cluster)
    assert done.returncode == 0, done.stdout + done.stderr
    workspace = recipe.parent / "workspace"
    stages = {each["stage"]: each["nodes"] for each in json.loads((workspace / "report.json").read_text())["stages"]}
    assert counted(stages["synthesis"], "llm-gpu")[-1] >= 1
    assert 0 in counted(after(stages, "synthesis"), "llm-gpu"), "GPUs were paid for while nobody used them"
    assert set(counted(before(stages, "distill"), "train-gpu")) == {0}
    assert counted(stages["distill"], "train-gpu")[-1] == 1
    assert max(counted([each for nodes in stages.values() for each in nodes], "cpu")) <= 2
    text = (workspace / "report.md").read_text()
    assert "llm-gpu" in text[text.index("## Nodes") :]


def counted(nodes: Sequence[Any], group: str) -> list[int]:
    return [counts.get(group, 0) for _, counts in nodes]


def before(stages: dict[str, list[Any]], stage: str) -> list[Any]:
    names = list(stages)
    return [each for name in names[: names.index(stage)] for each in stages[name]]


def after(stages: dict[str, list[Any]], stage: str) -> list[Any]:
    names = list(stages)
    return [each for name in names[names.index(stage) + 1 :] for each in stages[name]]


ROOM = """
from pipeline.errors import RayrieverError
from pipeline.placement import NODE_GROUP, Demand, require_room
from pipeline.ray_session import ensure_ray
from pipeline.recipe import RaySection

def has_room(count, **demand):
    try:
        require_room("some", count, Demand(**demand), "Do with less")
    except RayrieverError as error:
        assert "can add no more" in str(error), error
        return False
    return True

ensure_ray(RaySection())
on = lambda group: {NODE_GROUP: group}
import json
print("rooms", json.dumps([
    has_room(1, memory=3_000_000_000, labels=on("train-gpu")),
    has_room(1, memory=2_000_000_000, labels=on("train-gpu")),
    has_room(4, cpus=1, labels=on("cpu")),
    has_room(5, cpus=1, labels=on("cpu")),
    has_room(1, cpus=1, labels=on("gpu")),
    has_room(2, cpus=1, gpus=1),
    has_room(3, cpus=1, gpus=1),
    has_room(1, cpus=4, labels={NODE_GROUP: "!cpu"}),
    has_room(1, cpus=4, labels={NODE_GROUP: "!in(cpu,train-gpu)"}),
    has_room(1, gpus=1, accelerator_type="H100"),
]))
"""


def test_what_no_node_to_come_could_hold_is_refused_and_what_one_could_is_not(cluster: AutoscaledCluster) -> None:
    """Ray waits for ever for the one, and a check of what is there would refuse the other. These nodes, once they are
    there, have more memory than their group promises: that is asked about first."""
    environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
    done = subprocess.run([sys.executable, "-c", ROOM], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("rooms ")]
    assert json.loads(line.removeprefix("rooms ")) == [False, True, True, False, False, True, False, True, False, False]
