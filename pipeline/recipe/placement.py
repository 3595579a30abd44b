"""How many actors a section has, what each reserves, and which nodes of a cluster they go to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.recipe.section import Section, execution

# Ray takes a space after the comma for a part of the value
_VALUE = r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
Selector = Annotated[str, Field(pattern=rf"^!?({_VALUE}|in\({_VALUE}(,{_VALUE})*\))$")]
Labels = dict[str, Selector]


class PlacementSection(Section):
    labels: Labels = execution(
        {},
        "Ray labels of the nodes, each a value, !value, in(a,b) or !in(a,b). `ray.io/node-group` is the node type of "
        "the cluster's file, or the worker group of KubeRay.",
    )
    accelerator_type: str | None = execution(None, "Kind of GPU as Ray names it: L40S, H100; default: any.")
    memory_gb: float = execution(0, "Memory reserved by each, in GB; what takes more is not stopped.", ge=0)


class ActorsSection(Section):
    """Work that Ray Data spreads over actors."""

    actors: int = execution(1, "Actors, all at work at once.", ge=1)
    cpus_per_actor: float = execution(2, "CPUs reserved per actor, and its threads.", gt=0)
    gpus_per_actor: float = execution(0, "GPUs reserved per actor.", ge=0)
    placement: PlacementSection = execution(PlacementSection(), "Of the actors.")
