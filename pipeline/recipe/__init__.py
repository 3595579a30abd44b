"""The YAML recipe as typed sections: every knob of a run, its unit, its default and why."""

from pipeline.recipe.corpus import CorpusSection, LexicalSection, QueriesSection, QueryKind
from pipeline.recipe.llm import (
    BatchSection,
    BudgetSection,
    EndpointSection,
    LlmSection,
    PreferencesSection,
    PriceSection,
    SynthesisSection,
)
from pipeline.recipe.load import load_recipe, make_recipe, with_overrides
from pipeline.recipe.placement import ActorsSection, PlacementSection
from pipeline.recipe.recipe import Key, Recipe, describe, section_of
from pipeline.recipe.reranking import (
    CandidatesSection,
    PermutationsSection,
    ScorerSection,
    Source,
    SparseSection,
)
from pipeline.recipe.run import AblateSection, RaySection, TrackingSection
from pipeline.recipe.search import EncoderSection, EvaluateRerankerSection, EvaluateSection, IndexSection
from pipeline.recipe.section import Section
from pipeline.recipe.serving import ServeSection
from pipeline.recipe.training import (
    AlignSection,
    DatasetSection,
    DistillSection,
    EncoderTrainingSection,
    NegativesSection,
    RerankSection,
    SyntheticKind,
    TeacherSection,
    TrainingSection,
)

__all__ = [
    "AblateSection",
    "ActorsSection",
    "AlignSection",
    "BatchSection",
    "BudgetSection",
    "CandidatesSection",
    "CorpusSection",
    "DatasetSection",
    "DistillSection",
    "EncoderSection",
    "EncoderTrainingSection",
    "EndpointSection",
    "EvaluateRerankerSection",
    "EvaluateSection",
    "IndexSection",
    "Key",
    "LexicalSection",
    "LlmSection",
    "NegativesSection",
    "PermutationsSection",
    "PlacementSection",
    "PreferencesSection",
    "PriceSection",
    "QueriesSection",
    "QueryKind",
    "RaySection",
    "Recipe",
    "RerankSection",
    "ScorerSection",
    "Section",
    "ServeSection",
    "Source",
    "SparseSection",
    "SynthesisSection",
    "SyntheticKind",
    "TeacherSection",
    "TrackingSection",
    "TrainingSection",
    "describe",
    "load_recipe",
    "make_recipe",
    "section_of",
    "with_overrides",
]
