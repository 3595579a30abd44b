"""Documents and queries: where they come from and how they are cleaned, split and searched by words."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.recipe.section import Section, execution


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


class LexicalSection(Section):
    k1: float = Field(0.9, gt=0, description="BM25 term saturation.")
    b: float = Field(0.4, ge=0, le=1, description="BM25 length normalisation.")
    stemmer: str = Field("english", description="Snowball stemmer, and its language's stop words; 'none' for neither.")
    shard_passages: int = execution(500_000, "Passages per part of the BM25 index; changes no score.", ge=1)


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
    temperature: float = Field(
        0.7, ge=0, le=2, description="Sampling temperature of LLM-written queries, where the prompt's file sets none."
    )
    max_source_rank: int = Field(
        20,
        ge=1,
        description="An LLM-written query is dropped unless BM25 ranks its passage this high: a round-trip filter "
        "against questions that the passage does not answer (Dai et al. 2022; Gospodinov et al. 2023).",
    )
