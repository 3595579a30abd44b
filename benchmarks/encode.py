"""Passages per second of our encoder against SentenceTransformer.encode: same model, texts and process.

The two take turns, the order swapped every repetition; quoted are medians and the ratio of each pair.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from figures import show
from sentence_transformers import SentenceTransformer

from pipeline.corpus.pydoc import read_documentation
from pipeline.encoder.encode import Encoder, Vectors
from pipeline.encoder.model import load_model
from pipeline.models import locate
from pipeline.recipe import EncoderSection
from pipeline.records import full_text


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    texts = sample_texts(arguments.passages)
    section = EncoderSection()
    peer = SentenceTransformer(locate(section.model).path_or_name, device="cpu")
    ours = Encoder(load_model(section), section.dtype, section.tokens_per_batch)
    sides: dict[str, Callable[[list[str]], Vectors]] = {
        "ours": ours.encode_passages,
        "peer": lambda batch: peer.encode(batch, normalize_embeddings=True),
    }
    vectors = {name: encode(texts) for name, encode in sides.items()}  # also the warm-up
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(arguments.repetitions):
        for name in list(sides) if repetition % 2 else list(sides)[::-1]:
            began = time.perf_counter()
            sides[name](texts)
            seconds[name].append(time.perf_counter() - began)
    show(arguments.json, summarise(texts, seconds, vectors))


def sample_texts(count: int) -> list[str]:
    """A seeded sample of the standard library's documentation."""
    documented = [full_text(each.name, f"{each.signature}\n{each.docstring}") for each in read_documentation("stdlib")]
    return random.Random(0).sample(documented, min(count, len(documented)))


def summarise(texts: list[str], seconds: dict[str, list[float]], vectors: dict[str, Vectors]) -> dict[str, object]:
    ratios = [peer / ours for ours, peer in zip(seconds["ours"], seconds["peer"], strict=True)]
    rates = {name: len(texts) / statistics.median(values) for name, values in seconds.items()}
    return {
        "passages": len(texts),
        "threads": torch.get_num_threads(),
        "repetitions": len(ratios),
        "ours_passages_per_s": round(rates["ours"], 1),
        "sentence_transformers_passages_per_s": round(rates["peer"], 1),
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
        "cosine_min": round(float(np.min((vectors["ours"] * vectors["peer"]).sum(axis=1))), 6),
        "torch": torch.__version__,
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
