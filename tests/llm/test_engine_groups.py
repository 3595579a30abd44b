"""What an engine of several workers reserves, and gives back."""

import time

import pytest
import ray
from ray.util import placement_group_table

from pipeline.llm.engines.job import Job
from pipeline.llm.engines.vllm_actors import _together, release
from pipeline.placement import NODE_GROUP, Demand
from pipeline.recipe import LlmSection


def states(job: Job) -> list[str]:
    """Of its groups; asked of Ray's table, as free CPUs are those of everything else that runs."""
    return [each["state"] for each in placement_group_table().values() if each["name"].startswith(job.run_id)]


@pytest.mark.usefixtures("ray_cluster")
def test_the_next_stage_has_the_nodes_that_an_engine_of_several_workers_had():
    """Ray keeps a placement group as long as the driver lives: a training on the same GPUs would wait for ever."""
    section = LlmSection(engine="vllm", engine_kwargs={"tensor_parallel_size": 3}, cpus_per_actor=3)
    job, other = (Job(section, "model", "workspace", f"engine-groups-{number}") for number in (1, 2))
    demand = Demand(cpus=1, labels={NODE_GROUP: "!head"})
    where = _together(job, demand)
    engine = ray.remote(num_cpus=0, label_selector=dict(demand.labels), **where)(lambda: "ran")
    assert ray.get(engine.remote(), timeout=60) == "ran"
    assert states(job) == ["CREATED"]
    release(other)
    time.sleep(0.5)
    assert states(job) == ["CREATED"], "another call's engines went with it"
    release(job)
    deadline = time.monotonic() + 30
    while states(job) != ["REMOVED"]:
        assert time.monotonic() < deadline, states(job)
        time.sleep(0.1)
