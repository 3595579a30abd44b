"""What a collection says of itself in every generation: whose vectors, which words, how to fuse and rerank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.index.manifest import About as IndexAbout
from pipeline.lexical.stage import About as WordsAbout
from pipeline.sharded.folder import ShardFolder
from pipeline.workspace import Workspace

FOLDER = "collections"
DEFAULT = "live"
# In `Generation.extra`: the evaluation of the run that was published; absent where it has evaluated nothing
RUN_REPORT = "report.json"


Mode = Literal["dense", "bm25", "hybrid"]


@dataclass(frozen=True)
class Reranking:
    """Behind which first stage the reranker of a generation was found to help, and how deep."""

    first_stage: Mode
    depth: int


@dataclass(frozen=True)
class About:
    """The `about` of a collection's generation."""

    index: IndexAbout
    words: WordsAbout
    encoder: str  # name of the encoder: base, tuned or aligned
    fusion: dict[str, Any] | None  # as release.json says; None where the run did not evaluate this encoder
    change: str  # what made this generation of the one before
    reranking: Reranking | None = None  # None where the generation holds no reranker
    dimensions: tuple[int, ...] = ()  # shorter vectors that the encoder was trained to have (Matryoshka)
    additions: int = 0  # changes since publishing or compacting that each brought shards of their own

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> About:
        index, words = IndexAbout.of(values["index"]), WordsAbout.of(values["words"])
        reranking = values.get("reranking")
        return cls(
            index,
            words,
            values["encoder"],
            values["fusion"],
            values["change"],
            None if reranking is None else Reranking(**reranking),
            tuple(values.get("dimensions", ())),
            values.get("additions", 0),
        )

    def values(self) -> dict[str, Any]:
        words = {"section": self.words.section, "corpus": self.words.corpus}
        return {
            "index": self.index.values(),
            "words": words,
            "encoder": self.encoder,
            "fusion": self.fusion,
            "change": self.change,
            "reranking": None if self.reranking is None else asdict(self.reranking),
            "dimensions": list(self.dimensions),
            "additions": self.additions,
        }


def collection_folder(workspace: Workspace, name: str = DEFAULT) -> ShardFolder:
    """Where a collection of a workspace lies."""
    return ShardFolder(workspace.uri, workspace.path(FOLDER, name))
