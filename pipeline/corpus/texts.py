"""Texts of some passages of a finished corpus."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifact import Artifact
from pipeline.records import full_text


def passage_texts(corpus: Artifact, wanted: Iterable[str]) -> dict[str, str]:
    """What the encoder reads of the wanted passages; one part of the corpus in memory at a time."""
    ids = pa.array(sorted(set(wanted)), pa.string())
    texts = {}
    if len(ids):
        columns = ["passage_id", "title", "text"]
        for batch in corpus.batches("passages", columns):
            chosen = batch.filter(pc.is_in(batch["passage_id"], ids))
            texts.update({row["passage_id"]: full_text(row["title"], row["text"]) for row in chosen.to_pylist()})
    return texts
