"""What the encoder learns from, and how it is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.recipe.placement import PlacementSection
from pipeline.recipe.section import Section, execution


class NegativesSection(Section):
    per_query: int = Field(15, ge=1, le=200, description="Mined passages kept per train query.")
    ranks: tuple[int, int] = Field((1, 100), description="First and last rank of the hits that may become negatives.")
    max_share_of_positive: float | None = Field(
        0.95,
        gt=0,
        le=1,
        description="Passages scoring above this share of the worst positive's score are likely unlabelled positives "
        "and are left out (NV-Retriever, Moreira et al. 2024, TopK-PercPos); none: no such rule.",
    )
    rounds: int = Field(
        1,
        ge=1,
        le=20,
        description="Trainings of stage 1. Each goes on from the one before, with negatives from that one's own hits; "
        "`distill.epochs` is of each.",
    )
    margin: float | None = Field(
        None, ge=0, description="Or: passages must score at least this much below the worst positive (TopK-MarginPos)."
    )

    @model_validator(mode="after")
    def _ranks_in_order(self) -> NegativesSection:
        if not 1 <= self.ranks[0] <= self.ranks[1] <= 1000:
            raise ValueError("ranks must be [first, last] with 1 <= first <= last <= 1000")
        return self


class TeacherSection(Section):
    """Lists of passages with scores that stage 1 learns to reproduce."""

    lexical_weight: float = Field(
        0.4,
        ge=0,
        description="The teacher's score of a passage is the base encoder's cosine plus this times BM25's share of the "
        "query's best. Fused, the two rank better than either.",
    )
    top_k: int = Field(30, ge=2, le=1000, description="Passages per query with a score.")
    reranker: str | None = Field(
        None,
        description="A reranker that scores these lists instead: a folder, name or 'pypi:DISTRIBUTION', or the "
        "workspace of a run that has shipped one, such as ./workspace/first. What it knows, the retriever learns.",
    )
    reranker_scale: float = Field(
        0.05,
        gt=0,
        description="The reranker's scores are multiplied by it: logits differ by some units, cosines by hundredths.",
    )
    written: tuple[Literal["decomposition", "positive"], ...] = Field(
        ("decomposition", "positive"),
        description="LLM-written documents whose sentences are queries of their own: no label is needed for a list.",
    )
    min_words: int = Field(5, ge=1, description="Shorter sentences are left out.")


class TrainingSection(Section):
    """What all trainings have in common."""

    seed: int | None = Field(None, ge=0, description="Seed of batches and dropout; default: the recipe's.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate of AdamW.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="Decay of the learning rate after warm-up."
    )
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
        None, ge=8, description="Longest training input; default: the model's own. Shorter is faster."
    )
    evaluations_per_epoch: int = Field(
        1, ge=0, description="Dev evaluations, each with a checkpoint; 0: one at the end, whose weights are kept."
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after this many dev evaluations without a better one; default: never."
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Precision of the forward pass; weights and losses are float32."
    )
    activation_tokens: int | None = execution(
        8192,
        "Tokens of a step whose activations are kept. The rest passes the model twice (gradient cache, Gao et al. 2021"
        "): the same gradient in bounded memory. A small model takes 0.3 MB per token; none: keep all.",
        ge=0,
    )
    gradient_checkpointing: bool = execution(False, "Recompute activations layer by layer: less memory, slower.")
    workers: int = Field(1, ge=1, description="Ray Train workers. The global batch stays `batch_size`.")
    min_workers: int | None = execution(
        None, "Go on with as few as these when nodes are lost, and grow again; default: `workers`.", ge=1
    )
    use_gpu: bool = execution(False, "One GPU per worker.")
    cpus_per_worker: float = execution(2, "CPUs reserved per worker, and its threads.", gt=0)
    placement: PlacementSection = execution(PlacementSection(), "Of the workers.")
    tokens_per_batch: int = execution(
        1024, "Padded tokens per forward pass inside a step; GPUs like more, and have the memory.", ge=64
    )

    @model_validator(mode="after")
    def _fewest_below_most(self) -> TrainingSection:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError("min_workers must not be larger than workers")
        if self.patience is not None and not self.evaluations_per_epoch:
            raise ValueError("patience counts dev evaluations: raise evaluations_per_epoch, or take patience out")
        return self


class EncoderTrainingSection(TrainingSection):
    """What both trainings of the encoder have in common."""

    temperature: float = Field(0.05, gt=0, description="tau of Kim & Baek 2025: similarities are divided by it.")
    matryoshka: tuple[int, ...] = Field(
        (),
        description="Also train the first n dimensions to be vectors of their own, for each n (Kusupati et al. 2022).",
    )
    lora_rank: int | None = Field(
        None, ge=1, description="Train low-rank adapters of this rank, merged when saved; default: every weight."
    )
    dev_passages: int = Field(
        2000, ge=10, description="Passages ranked in a dev evaluation: the judged ones and a seeded sample."
    )
    sharded: bool = execution(False, "Spread weights and optimiser over the workers (FSDP2); for large models.")


class RerankSection(TrainingSection):
    """How the reranker learns its teacher's lists (Baldelli et al. 2024, section 3.3 and 4.1)."""

    loss: Literal["ranknet", "lambda", "list_mle", "adr_mse", "margin_mse", "mse", "listwise_softmax"] = Field(
        "ranknet",
        description="ranknet: every pair that the teacher has decided (the paper); lambda: the same, weighted by what "
        "a swap does to nDCG; list_mle: the whole order; adr_mse: places; margin_mse, mse, listwise_softmax: the "
        "teacher's scores.",
    )
    score_scale: float = Field(
        10.0,
        gt=0,
        description="margin_mse, mse, listwise_softmax: the teacher's scores are multiplied by it. Borda shares lie "
        "between 0 and 1, logits differ by some units; 1 fits grades.",
    )
    list_size: int | None = Field(
        None, ge=2, description="Passages drawn from a list per visit, in the teacher's order; default: all."
    )
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate of AdamW; the paper's.")
    batch_size: int = Field(16, ge=1, description="Lists per step over all workers; the paper accumulates 32.")
    epochs: int = Field(2, ge=1, description="Visits of every list; the paper, with 20,000 of them, has one.")
    rounds: int = Field(
        1,
        ge=1,
        le=10,
        description="Times that candidates are found, ranked and learnt. From the second on, the reranker of the round "
        "before is a source of candidates, cross_encoder.",
    )
    dev_queries: int = Field(100, ge=1, description="Judged dev queries that choose the checkpoint: a seeded sample.")
    dev_depth: int = Field(20, ge=2, le=1000, description="Hits of each that are put in order: BM25 and dense fused.")


class DatasetSection(Section):
    path: str = Field(
        description="Table of training examples, .jsonl or .parquet: (query, positives, negatives, scores), "
        "FlagEmbedding's layout or sentence-transformers' columns."
    )
    weight: float = Field(1.0, gt=0, description="Visits of each row per epoch; 0.1 takes a tenth of them in turn.")
    score_temperature: float | None = Field(
        None,
        gt=0,
        description="The table's scores are divided by it: 0.05 fits cosines, 1 to 2 a reranker's logits; default: "
        "teacher_temperature.",
    )


SyntheticKind = Literal["decomposition", "positive", "negative"]


class DistillSection(EncoderTrainingSection):
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
        1.0,
        ge=0,
        description="Weight of the cross-entropy with lists: the teacher's, where the recipe has `teacher`, and those "
        "of `datasets` with scores.",
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


class AlignSection(EncoderTrainingSection):
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
    replay: float = Field(
        0.0,
        ge=0,
        description="Visits of stage 1's examples, in batches of their own with stage 1's loss, per visit of a query "
        "with preferences.",
    )

    @property
    def of_pairs(self) -> bool:
        """Whether it learns single pairs, not orders or grades of many candidates."""
        return self.loss == "bradley_terry" or (self.loss == "partial_pl" and self.depth in (1, 2))
