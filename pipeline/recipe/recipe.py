"""The whole recipe, and the list of its keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args, get_origin

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from pipeline.recipe.corpus import CorpusSection, LexicalSection, QueriesSection
from pipeline.recipe.llm import LlmSection, PreferencesSection, SynthesisSection
from pipeline.recipe.reranking import CandidatesSection, PermutationsSection, ScorerSection, SparseSection
from pipeline.recipe.run import AblateSection, RaySection, TrackingSection
from pipeline.recipe.search import EncoderSection, EvaluateRerankerSection, EvaluateSection, IndexSection
from pipeline.recipe.section import Section
from pipeline.recipe.serving import ServeSection
from pipeline.recipe.training import AlignSection, DistillSection, NegativesSection, RerankSection, TeacherSection


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
    scorer: ScorerSection = ScorerSection()
    sparse: SparseSection | None = Field(None, description="Learned sparse retrieval as a source; default: none.")
    candidates: CandidatesSection | None = Field(None, description="Find candidates for the reranker; default: no.")
    permutations: PermutationsSection | None = Field(None, description="Let a teacher rank lists; default: no.")
    rerank: RerankSection | None = Field(None, description="Train a reranker on these lists; default: no.")
    evaluate: EvaluateSection = EvaluateSection()
    evaluate_reranker: EvaluateRerankerSection = EvaluateRerankerSection()
    serve: ServeSection = ServeSection()
    ablate: AblateSection | None = Field(None, description="Arms of `rayriever ablate`.")
    tracking: TrackingSection = TrackingSection()
    ray: RaySection = RaySection()

    @model_validator(mode="after")
    def _preferences_for_alignment(self) -> Recipe:
        if (self.align is None) != (self.preferences is None):
            raise ValueError("stage 2 needs both sections, preferences and align ({} takes the defaults)")
        return self

    @model_validator(mode="after")
    def _expansion_has_a_server_to_ask(self) -> Recipe:
        if self.serve.expansion is not None and self.llm.engine != "openai":
            raise ValueError(
                f"serve.expansion asks a server while people wait: llm.engine openai, not {self.llm.engine}"
            )
        return self

    @model_validator(mode="after")
    def _nothing_reads_labels_behind_them(self) -> Recipe:
        deciding = self.preferences is not None and self.preferences.labels_decide
        readers = {"negatives": self.negatives is not None, "preferences.labels_decide": deciding}
        if not self.distill.labels and any(readers.values()):
            named = " and ".join(name for name, reads in readers.items() if reads)
            raise ValueError(f"distill.labels is false, but {named} would read the labels: take it out")
        return self

    @model_validator(mode="after")
    def _grade_gap_only_decides_pairs(self) -> Recipe:
        if self.preferences is None or self.align is None or not self.preferences.min_grade_gap:
            return self
        if not self.align.of_pairs:
            raise ValueError("preferences.min_grade_gap decides pairs; with this align.loss and depth none are learnt")
        return self

    @model_validator(mode="after")
    def _reranker_has_what_it_learns_from(self) -> Recipe:
        if self.rerank is not None and self.permutations is None:
            raise ValueError("rerank learns the lists of section permutations ({} takes the defaults)")
        if self.permutations is not None and self.candidates is None and self.permutations.path is None:
            raise ValueError("permutations ranks the lists of section candidates ({} takes the defaults) or takes path")
        return self

    @model_validator(mode="after")
    def _sources_are_there(self) -> Recipe:
        sources = () if self.candidates is None else self.candidates.sources
        if "sparse" in sources and self.sparse is None:
            raise ValueError("candidates.sources: sparse needs section sparse, with the model")
        rounds = 1 if self.rerank is None else self.rerank.rounds
        if "cross_encoder" in sources and self.candidates is not None and self.candidates.cross_encoder is None:
            raise ValueError("candidates.sources: cross_encoder needs a model, candidates.cross_encoder")
        if rounds > 1 and self.candidates is None:
            raise ValueError("rerank.rounds: later rounds find candidates anew, and need section candidates")
        return self


@dataclass(frozen=True)
class Key:
    """A recipe key as shown to people."""

    name: str  # section.key
    default: str
    description: str


def describe() -> list[Key]:
    """Every key of a recipe in the order of the sections."""
    return list(_described(Recipe, ""))


def _described(section: type[Section], prefix: str) -> Iterator[Key]:
    for name, info in section.model_fields.items():
        inner = section_of(info)
        # A list of sections is one key; what an element of it may say is in its description.
        if inner is None or get_origin(info.annotation) is tuple:
            yield _key(f"{prefix}{name}", info)
        else:
            yield from _described(inner, f"{prefix}{name}.")


def section_of(info: FieldInfo) -> type[Section] | None:
    """The section that a field holds, also where it may be left out; None for a plain value."""
    for kind in get_args(info.annotation) or (info.annotation,):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _key(name: str, field: FieldInfo) -> Key:
    default = "(required)" if field.is_required() else json.dumps(field.default)
    return Key(name, default, field.description or "")
