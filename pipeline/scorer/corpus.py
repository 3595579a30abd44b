"""Score passages of a finished corpus, named by their ids, for as many queries as there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.artifact import Artifact
from pipeline.corpus.texts import passage_texts
from pipeline.progress import Progress
from pipeline.recipe import RaySection, ScorerSection
from pipeline.scorer.actors import PassageList, score_lists

if TYPE_CHECKING:
    from pipeline.scorer.score import Scores

# Queries whose texts are held at a time
_BLOCK = 256


def score_ids(
    corpus: Artifact,
    queries: Mapping[str, str],
    ids: Mapping[str, Sequence[str]],
    section: ScorerSection,
    ray_section: RaySection,
    progress: Progress,
    trained_by: tuple[str, str] | None = None,
) -> Iterator[tuple[str, Scores]]:
    """Give (query id, scores in the order of its passages) of every entry of `ids`, as they are finished.

    Args:
        queries: texts by id.
        ids: query id -> passages to score.
        trained_by: stage and key, in the corpus's workspace, that trained the reranker; None is the section's model.
    """

    def lists() -> Iterator[PassageList]:
        asked = list(ids)
        for start in range(0, len(asked), _BLOCK):
            block = asked[start : start + _BLOCK]
            texts = passage_texts(corpus, {i for query_id in block for i in ids[query_id]})
            for query_id in block:
                yield PassageList(query_id, queries[query_id], [texts[i] for i in ids[query_id]])

    where = corpus.workspace.uri
    return score_lists(lists(), len(ids), section, ray_section, progress, trained_by, where)
