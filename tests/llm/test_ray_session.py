"""The connection to Ray."""

import os

import pytest

from pipeline.errors import RayrieverError
from pipeline.ray_session import ensure_ray, explained_ray_errors
from pipeline.recipe import RaySection


@pytest.mark.usefixtures("ray_cluster")
def test_second_call_keeps_the_cluster():
    import ray

    before = ray.get_runtime_context().get_job_id()
    ensure_ray(RaySection(num_cpus=1))
    assert ray.get_runtime_context().get_job_id() == before


@pytest.mark.usefixtures("ray_cluster")
def test_worker_that_dies_is_explained_and_a_mistake_in_our_code_is_not_hidden():
    import ray

    @ray.remote(max_retries=0)
    def die() -> None:
        os._exit(1)

    @ray.remote
    def err() -> None:
        raise KeyError("mistake")

    with (
        pytest.raises(RayrieverError, match=r"encoder died: .*\nUse less\."),
        explained_ray_errors("encoder", "Use less."),
    ):
        ray.get(die.remote())
    with pytest.raises(KeyError, match="mistake"), explained_ray_errors("encoder", "Use less."):
        ray.get(err.remote())
