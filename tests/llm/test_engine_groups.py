"""What an engine of several workers reserves, and gives back."""

import time

import pytest
import ray

from pipeline.llm.engines.job import Job
from pipeline.llm.engines.vllm_actors import _together, release
from pipeline.placement import NODE_GROUP, Demand
from pipeline.recipe import LlmSection


def free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0))


@pytest.mark.usefixtures("ray_cluster")
def test_the_next_stage_has_the_nodes_that_an_engine_of_several_workers_had():
    """Ray keeps a placement group as long as the driver lives: a training on the same GPUs would wait for ever."""
    section = LlmSection(engine="vllm", engine_kwargs={"tensor_parallel_size": 3}, cpus_per_actor=3)
    job = Job(section, "model", "workspace", "run-1")
    demand = Demand(cpus=1, labels={NODE_GROUP: "!head"})
    before = free_cpus()
    where = _together(job, demand)
    engine = ray.remote(num_cpus=0, label_selector=dict(demand.labels), **where)(lambda: "ran")
    assert ray.get(engine.remote(), timeout=60) == "ran"
    await_cpus(before - 3)
    release(Job(section, "model", "workspace", "run-2"))
    time.sleep(0.5)
    assert free_cpus() == before - 3, "another call's engines went with it"
    release(job)
    await_cpus(before)


def await_cpus(count: float) -> None:
    deadline = time.monotonic() + 30
    while free_cpus() != count:
        assert time.monotonic() < deadline, (free_cpus(), count)
        time.sleep(0.1)
