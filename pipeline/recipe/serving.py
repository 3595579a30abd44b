"""What is deployed, how it scales, and what protects it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.recipe.section import Section, execution

Replicas = Annotated[int, Field(ge=1)]


class ServeSection(Section):
    name: str = execution(
        "rayriever",
        "Model name that clients send; NAME-query, NAME-passage and NAME-reranker go with it.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    )
    collections: tuple[str, ...] = execution(
        ("live",),
        "Collections of the workspace that can be searched; the first where a request names none.",
        min_length=1,
    )
    host: str = execution("127.0.0.1", "Address to listen on; others than this machine's own need API keys.")
    port: int = execution(8000, "Port to listen on.", ge=1, le=65535)
    mode: Literal["auto", "dense", "bm25", "hybrid"] = execution(
        "auto", "How a search goes that does not say it; auto: hybrid, or what the reranker was found to help."
    )
    reranker: str | None = execution(
        None, "Model that `collection publish` puts behind the search; default: the run's, where its gate ships it."
    )
    expansion: Literal["passage", "questions"] | None = execution(
        None,
        "What the LLM of section llm (engine openai) adds to a query whose request says expand: a passage that might "
        "answer it, or the questions it consists of; default: nothing.",
    )
    rerank_depth: int = execution(20, "Hits that such a model puts in order.", ge=1, le=1000)
    keys_variable: str = execution(
        "RAYRIEVER_API_KEYS", "Environment variable with the API keys, one or more, separated by commas."
    )
    requests_per_minute: int | None = execution(None, "Of one API key, or address where there are none.", ge=1)
    deadline_s: float = execution(30.0, "After which a request is given up and answered with 504.", gt=0)
    body_mb: float = execution(8.0, "Largest body of a request.", gt=0)
    max_texts: int = execution(2048, "Inputs, queries or documents of one request.", ge=1)
    max_text_chars: int = execution(200_000, "Characters of one of them; models cut earlier.", ge=1)
    max_waiting: int = execution(
        64, "Requests at work at once per gateway; more get 429 before anything is queued.", ge=1
    )
    together: bool = execution(
        True, "All parts in one process, which is fastest on one machine; false: each by itself, to scale apart."
    )
    vector_slots: int = execution(1, "Deployments that share the vector shards.", ge=1)
    word_slots: int = execution(1, "Deployments that share the shards of words and texts.", ge=1)
    gateways: tuple[Replicas, Replicas] = execution((1, 1), "Least and most replicas that take requests.")
    encoders: tuple[Replicas, Replicas] = execution((1, 1), "Least and most replicas of the encoder.")
    rerankers: tuple[Replicas, Replicas] = execution((1, 1), "Least and most replicas of the reranker.")
    slot_replicas: tuple[Replicas, Replicas] = execution((1, 1), "Least and most replicas of every slot.")
    reserve_cpus: bool = execution(
        False,
        "Reserve cpus_per_actor for encoders and rerankers, threads_per_shard for slots, one for the others: on "
        "clusters, where others work too. On one machine they share.",
    )
    encoder_gpus: float = execution(0, "GPUs of an encoder replica.", ge=0)
    reranker_gpus: float = execution(0, "GPUs of a reranker replica.", ge=0)
    traced: float = execution(
        0.01, "Share of requests whose spans are sent, where OTEL_EXPORTER_OTLP_ENDPOINT says where to.", ge=0, le=1
    )
    compact_after: int = execution(
        32, "Additions, each a shard of its own, above which the server compacts the collection.", ge=1
    )

    @model_validator(mode="after")
    def _replicas_that_can_be(self) -> ServeSection:
        for name in ("gateways", "encoders", "rerankers", "slot_replicas"):
            least, most = getattr(self, name)
            if least > most:
                raise ValueError(f"{name}: least {least} is more than most {most}")
            if self.together and most > 1:
                raise ValueError(f"{name}: up to {most} replicas need together: false")
        for name in ("vector_slots", "word_slots"):
            if self.together and getattr(self, name) > 1:
                raise ValueError(f"{name}: more than one slot needs together: false")
        return self
