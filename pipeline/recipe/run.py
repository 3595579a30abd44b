"""How a run is compared, followed and placed."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.recipe.placement import Labels
from pipeline.recipe.section import Section, execution


class AblateSection(Section):
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="Training seeds of every arm.")
    reference: str = Field("base", description="Arm that the others are tested against, beside the base encoder.")
    depth: int = Field(
        50, ge=2, le=1000, description="With section rerank: hits of BM25 and the encoder fused that are reranked."
    )
    arms: dict[str, dict[str, Any]] = Field(
        description="Name -> overrides of the recipe (section.key: value; section: null takes a section out)."
    )


class TrackingSection(Section):
    folder: str | None = execution(
        None, "Local folder for metrics.jsonl and TensorBoard events; default: logs/ in a local workspace, else ./logs."
    )
    mlflow: str | None = execution(None, "MLflow tracking URI; needs the extra 'mlflow'.")
    mlflow_experiment: str = execution("rayriever", "MLflow experiment.")


class RaySection(Section):
    address: str | None = execution(None, "Ray cluster to join; default: RAY_ADDRESS, else one on this machine.")
    num_cpus: int | None = execution(None, "Logical CPUs of a local cluster; default: what the machine has.", ge=1)
    object_store_mb: int = execution(512, "Object store of a local cluster, in MB.", ge=80)
    labels: Labels = execution(
        {},
        "Labels of the nodes for all that Ray starts for the run; the `placement` of a section adds to them, or has "
        "another value. `ray.io/node-group: '!head'` keeps work from the head.",
    )
