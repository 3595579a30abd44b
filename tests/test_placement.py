"""What a section's actors demand, and whether a cluster has room for it."""

import pytest

from pipeline.errors import RayrieverError
from pipeline.placement import NODE_GROUP, Demand, Node, place_actors, require_room
from pipeline.recipe import EncoderSection, LlmSection, PlacementSection, make_recipe

L40S = {"CPU": 8.0, "GPU": 1.0, "memory": 64e9, "accelerator_type:L40S": 1.0}


@pytest.mark.usefixtures("ray_cluster")
def test_impossible_requests_fail_with_numbers_instead_of_waiting_for_ever():
    assert place_actors("llm", LlmSection(actors=2)).options() == {"num_cpus": 2, "num_gpus": 0}
    with pytest.raises(RayrieverError, match=r"llm\.actors = 3 of 2 CPUs, 0 GPUs: .* room for 2 \(1 .* 4 CPUs, 0 GPUs"):
        place_actors("llm", LlmSection(actors=3))
    with pytest.raises(RayrieverError, match=r"1 GPUs: .* room for 0 .*Change encoder\.actors, "):
        place_actors("encoder", EncoderSection(cpus_per_actor=1, gpus_per_actor=1))
    with pytest.raises(RayrieverError, match=r"5 CPUs, 0 GPUs: .* room for 0"):
        require_room("distill.workers", 1, Demand(cpus=5), "Change distill.workers")


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"labels": {NODE_GROUP: "llm-gpu"}}, r"on nodes labelled ray\.io/node-group: llm-gpu: .* room for 0"),
        ({"accelerator_type": "H100"}, r"accelerator H100: .* room for 0"),
        ({"memory_gb": 100_000}, r"1e\+05 GB: .* room for 0"),
    ],
)
def test_a_placement_that_no_node_has_is_refused_at_once(placement: dict[str, object], message: str):
    section = EncoderSection(placement=PlacementSection.model_validate(placement))
    with pytest.raises(RayrieverError, match=message):
        place_actors("encoder", section)


@pytest.mark.usefixtures("ray_cluster")
def test_what_ray_is_told_is_what_was_checked():
    placement = PlacementSection(labels={NODE_GROUP: "!head"}, memory_gb=0.5)
    options = place_actors("encoder", EncoderSection(placement=placement)).options()
    assert options == {"num_cpus": 2, "num_gpus": 0, "memory": 500_000_000, "label_selector": {NODE_GROUP: "!head"}}
    import ray

    assert ray.get(ray.remote(**options)(lambda: "ran").remote(), timeout=60) == "ran"


@pytest.mark.parametrize(
    ("demand", "room"),
    [
        (Demand(cpus=3), 2),
        (Demand(gpus=0.3), 3),
        (Demand(cpus=1, memory=40_000_000_000), 1),
        (Demand(gpus=1, accelerator_type="L40S"), 1),
        (Demand(gpus=1, accelerator_type="H100"), 0),
        (Demand(cpus=8, labels={"pool": "spot"}), 1),
        (Demand(cpus=8, labels={"pool": "in(spot,other)"}), 1),
        (Demand(cpus=8, labels={"pool": "!spot"}), 0),
        (Demand(cpus=8, labels={"pool": "!in(a,b)"}), 1),
        (Demand(cpus=8, labels={"zone": "a"}), 0),
        (Demand(cpus=8, labels={"zone": "!a"}), 1),  # as Ray has it: a node without the label is not one with `a`
        (Demand(), float("inf")),
    ],
)
def test_room_on_a_node(demand: Demand, room: float):
    assert Node(L40S, {"pool": "spot"}).room_for(demand) == room


@pytest.mark.parametrize("selector", ["", "!", "in()", "in(a,", "a b", "!!a", "-a", "in(a; b)", "in(a, b)"])
def test_a_selector_that_ray_would_not_take_is_refused_with_the_recipe(selector: str):
    with pytest.raises(RayrieverError, match=r"encoder\.placement\.labels\.pool"):
        make_recipe({"encoder": {"placement": {"labels": {"pool": selector}}}}, None, "it")


def test_pieces_of_two_gpus_are_not_one():
    four = Node({"CPU": 8.0, "GPU": 4.0}, {})
    assert [four.room_for(Demand(gpus=gpus)) for gpus in (0.6, 0.5, 0.25, 2, 3)] == [4, 8, 16, 2, 1]


def test_a_placement_changes_no_result():
    plain, placed = EncoderSection(), EncoderSection(placement=PlacementSection(labels={"pool": "a"}, memory_gb=4))
    assert plain.result_fields() == placed.result_fields()
