"""Pairs per second of our scorer against CrossEncoder.predict: same weights, pairs and process, both as saved by us.

All sides take turns, the order swapped every repetition; quoted are medians and the ratio of each repetition. The
head is random and scaled so that the peer's scores have standard deviation 1: differences are read against that.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from figures import show
from scipy.stats import spearmanr
from sentence_transformers import CrossEncoder

from pipeline.corpus.pydoc import read_documentation
from pipeline.recipe import ScorerSection
from pipeline.records import full_text
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.model import Pair
from pipeline.scorer.score import Scorer, Scores

Side = Callable[[list[Pair]], Scores]
PEER = "cross_encoder"
_PER_QUERY = 25


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    pairs = sample_pairs(arguments.pairs)
    with TemporaryDirectory() as name:
        save_reranker(Path(name), pairs)
        sides = open_sides(Path(name), arguments.tokens_per_batch)
    scores = {name: score(pairs) for name, score in sides.items()}  # also the warm-up
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(arguments.repetitions):
        for name in list(sides) if repetition % 2 else list(sides)[::-1]:
            began = time.perf_counter()
            sides[name](pairs)
            seconds[name].append(time.perf_counter() - began)
    show(arguments.json, summarise(arguments, pairs, seconds, scores))


def sample_pairs(count: int) -> list[Pair]:
    """First lines of the standard library's docstrings as queries, each with a seeded sample of whole ones."""
    documented = [each for each in read_documentation("stdlib") if each.docstring.strip()]
    chosen = random.Random(0)
    passages = [full_text(each.name, f"{each.signature}\n{each.docstring}") for each in documented]
    queries = [each.docstring.strip().splitlines()[0] for each in chosen.sample(documented, -(-count // _PER_QUERY))]
    return [(query, passage) for query in queries for passage in chosen.sample(passages, _PER_QUERY)][:count]


def save_reranker(folder: Path, pairs: list[Pair]) -> None:
    model = load_scorer_model(ScorerSection(), seed=0)
    with torch.inference_mode():
        spread = model.logits(model.tokenize(pairs[:128])).std()
    head = model.module.get_parameter("classifier.weight")
    head.data /= spread
    model.save(folder)


def open_sides(folder: Path, tokens_per_batch: int) -> dict[str, Side]:
    """The peer's default batch is 32 pairs; ours is the recipe's number of tokens."""
    section = ScorerSection()
    peer = CrossEncoder(str(folder), device="cpu")
    ours = {
        "float32": Scorer(load_scorer_model(section, folder), "float32", tokens_per_batch),
        "bfloat16": Scorer(load_scorer_model(section, folder), "bfloat16", tokens_per_batch),
    }
    sides: dict[str, Side] = {PEER: lambda pairs: peer.predict(pairs, show_progress_bar=False)}
    return sides | {name: scorer.score_pairs for name, scorer in ours.items()}


def summarise(
    arguments: argparse.Namespace,
    pairs: list[Pair],
    seconds: dict[str, list[float]],
    scores: dict[str, Scores],
) -> dict[str, object]:
    figures: dict[str, object] = {
        "pairs": len(pairs),
        "threads": torch.get_num_threads(),
        "repetitions": arguments.repetitions,
        "tokens_per_batch": arguments.tokens_per_batch,
        f"{PEER}_pairs_per_s": rate(pairs, seconds[PEER]),
        f"{PEER}_score_std": round(float(scores[PEER].std()), 3),
    }
    for name in seconds.keys() - {PEER}:
        ratios = [peer / ours for ours, peer in zip(seconds[name], seconds[PEER], strict=True)]
        figures[f"{name}_pairs_per_s"] = rate(pairs, seconds[name])
        figures[f"{name}_ratio_median"] = round(statistics.median(ratios), 2)
        figures[f"{name}_ratio_min"] = round(min(ratios), 2)
        figures[f"{name}_ratio_max"] = round(max(ratios), 2)
        figures[f"{name}_difference_max"] = float(f"{np.abs(scores[name] - scores[PEER]).max():.2g}")
        figures[f"{name}_spearman"] = round(float(spearmanr(scores[name], scores[PEER]).statistic), 6)
    return figures | {"torch": torch.__version__}


def rate(pairs: list[Pair], seconds: list[float]) -> float:
    return round(len(pairs) / statistics.median(seconds), 1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tokens-per-batch", type=int, default=ScorerSection().tokens_per_batch)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
