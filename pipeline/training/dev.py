"""Score an encoder on the dev queries during training, over a sample of the corpus."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import ir_measures
import numpy as np
import torch

from pipeline.encoder.model import PASSAGE, QUERY
from pipeline.training.step import BiEncoder

_DEPTH = 10


@dataclass(frozen=True)
class DevSet:
    """Dev queries, their judgments, and the passages they are ranked against; plain data that travels to workers."""

    queries: Mapping[str, str]
    judgments: Mapping[str, Mapping[str, int]]  # query id -> passage id -> grade
    passages: Mapping[str, str]


def choose_passages(judged: set[str], every_id: list[str], size: int, seed: int) -> list[str]:
    """The judged passages and a seeded sample of the others, `size` together unless more are judged."""
    others = [passage_id for passage_id in every_id if passage_id not in judged]
    room = min(max(0, size - len(judged)), len(others))
    return sorted(judged | set(random.Random(seed).sample(others, room)))


@torch.inference_mode()
def dev_score(model: BiEncoder, dev: DevSet) -> float:
    """Mean nDCG@10 over the dev queries, ranked by exact search in the dev passages."""
    training = model.training
    model.eval()
    queries = model.embed(list(dev.queries.values()), QUERY).cpu()
    passages = model.embed(list(dev.passages.values()), PASSAGE).cpu()
    model.train(training)
    ids = list(dev.passages)
    run = {}
    for query_id, row in zip(dev.queries, (queries @ passages.T).numpy(), strict=True):
        best = np.argsort(-row, kind="stable")[:_DEPTH]
        run[query_id] = {ids[column]: float(row[column]) for column in best}
    judgments = {query_id: dict(grades) for query_id, grades in dev.judgments.items()}
    measure = ir_measures.nDCG @ _DEPTH
    return float(ir_measures.calc_aggregate([measure], judgments, run)[measure])
