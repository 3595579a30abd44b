"""One measurement of benchmarks/training.py, in a process of its own: our training step, or the peer's trainer."""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import tempfile
import time
from pydoc_data.topics import topics
from typing import Any

import psutil
import torch
from datasets import Dataset  # type: ignore[import-untyped]
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from pipeline.encoder.model import load_model
from pipeline.recipe import DistillSection, EncoderSection
from pipeline.training import weights
from pipeline.training.batch import assemble
from pipeline.training.examples import Example
from pipeline.training.objective import distill_objective, distill_visit
from pipeline.training.step import StepRecipe, accumulate_gradient

MAX_TOKENS = 256
TEMPERATURE = 0.05
Pair = tuple[str, str]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    pairs = sample_pairs(arguments.batch_size * arguments.steps)
    encoder = load_model(EncoderSection(max_tokens=MAX_TOKENS))
    if arguments.side == "losses":
        print(json.dumps({"loss_difference": loss_difference(encoder, pairs)}))
        return
    loaded_mb = psutil.Process().memory_info().rss / 1e6
    precisions = watch_precision(encoder)
    train = train_peer if arguments.side == "peer" else train_ours
    tokens = count_tokens(encoder, pairs[arguments.batch_size :])
    seconds, cpu_seconds = train(encoder, pairs, arguments)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    figures = {
        "tokens_per_second": tokens / seconds,
        "tokens_per_cpu_second": tokens / cpu_seconds,
        "peak_mb": peak_mb,
        "peak_above_model_mb": peak_mb - loaded_mb,
        "precisions": sorted(precisions),
    }
    print(json.dumps(figures))


def sample_pairs(count: int) -> list[Pair]:
    """Seeded stretches of the Python reference: passages of 30 to 220 words, and queries of 8 to 22 from within."""
    words = re.findall(r"[A-Za-z]+[.,:]?", " ".join(topics.values()))
    chance = random.Random(0)
    pairs = []
    for _ in range(count):
        start, length = chance.randrange(len(words) - 220), chance.randint(30, 220)
        passage = words[start : start + length]
        asked = chance.randint(8, 22)
        first = chance.randrange(length - asked + 1)
        pairs.append((" ".join(passage[first : first + asked]), " ".join(passage)))
    return pairs


class Clock(TrainerCallback):
    """Starts at the end of the first step."""

    began: tuple[float, float] | None = None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.began = self.began or (time.perf_counter(), time.process_time())

    def passed(self) -> tuple[float, float]:
        """Seconds and CPU seconds."""
        assert self.began is not None
        return time.perf_counter() - self.began[0], time.process_time() - self.began[1]


def train_ours(encoder: SentenceTransformer, pairs: list[Pair], arguments: argparse.Namespace) -> tuple[float, float]:
    """Seconds and CPU seconds of all steps but the first."""
    section = our_section(arguments.tokens_per_batch, "bfloat16", KEPT_TOKENS[arguments.side])
    model = weights.prepare(encoder, section, torch.device("cpu"))
    optimizer = weights.optimizer(model.parameters(), section)
    recipe, visit, examples = step_recipe(section), distill_visit(section), as_examples(pairs)
    clock = Clock()
    for step in range(arguments.steps):
        rows = range(step * arguments.batch_size, (step + 1) * arguments.batch_size)
        batch = assemble(examples, rows, visit, seed=0, epoch=0)
        optimizer.zero_grad()
        accumulate_gradient(model, batch, recipe)
        torch.nn.utils.clip_grad_norm_(model.parameters(), section.max_gradient_norm)
        optimizer.step()
        clock.on_step_end()
    return clock.passed()


# Activations that a step keeps: by default, and as few as can be.
KEPT_TOKENS = {"ours": DistillSection().activation_tokens, "ours_least_memory": 0}


def our_section(tokens_per_batch: int, dtype: str, activation_tokens: int | None) -> DistillSection:
    return DistillSection(
        loss="infonce",
        temperature=TEMPERATURE,
        dtype=dtype,
        activation_tokens=activation_tokens,
        tokens_per_batch=tokens_per_batch,
    )


def step_recipe(section: DistillSection) -> StepRecipe:
    return StepRecipe(distill_objective(section), section.temperature, activation_tokens=section.activation_tokens)


def as_examples(pairs: list[Pair]) -> list[Example]:
    return [Example(str(n), query, (str(n),), (passage,)) for n, (query, passage) in enumerate(pairs)]


def train_peer(encoder: SentenceTransformer, pairs: list[Pair], arguments: argparse.Namespace) -> tuple[float, float]:
    """Seconds and CPU seconds of all steps but the first, over the same batches in the same order."""
    section, clock = DistillSection(), Clock()
    anchors, positives = zip(*pairs, strict=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=encoder,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                use_cpu=True,
                bf16=True,
                num_train_epochs=1,
                per_device_train_batch_size=arguments.batch_size,
                learning_rate=section.learning_rate,
                weight_decay=section.weight_decay,
                max_grad_norm=section.max_gradient_norm,
                batch_sampler=in_order,
                logging_strategy="no",
                save_strategy="no",
                eval_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_dict({"anchor": anchors, "positive": positives}),
            loss=peer_loss(encoder, arguments.mini_batch_size),
            callbacks=[clock],
        )
        trainer.train()
        return clock.passed()


def in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> DefaultBatchSampler:
    return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)


def peer_loss(encoder: SentenceTransformer, mini_batch_size: int | None) -> torch.nn.Module:
    if mini_batch_size is None:
        return MultipleNegativesRankingLoss(encoder, scale=1 / TEMPERATURE)
    return CachedMultipleNegativesRankingLoss(encoder, scale=1 / TEMPERATURE, mini_batch_size=mini_batch_size)


def loss_difference(encoder: SentenceTransformer, pairs: list[Pair]) -> float:
    """Largest difference of the four ways to compute one batch's loss, in float32 without dropout."""
    found = []
    for activation_tokens in (0, None):
        section = our_section(2048, "float32", activation_tokens)
        model = weights.prepare(encoder, section, torch.device("cpu"))
        encoder.eval()
        batch = assemble(as_examples(pairs), range(len(pairs)), distill_visit(section), seed=0, epoch=0)
        found.append(accumulate_gradient(model, batch, step_recipe(section)).loss)
    for mini_batch_size in (None, 32):
        features = [encoder.preprocess(list(column)) for column in zip(*pairs, strict=True)]
        found.append(float(peer_loss(encoder, mini_batch_size)(features, None).detach()))
    return max(found) - min(found)


def watch_precision(encoder: SentenceTransformer) -> set[str]:
    """What a linear layer computes in, with and without gradient: autocast may cover one pass and not the other."""
    seen: set[str] = set()
    layer = next(module for module in encoder.modules() if isinstance(module, torch.nn.Linear))
    layer.register_forward_hook(lambda *call: seen.add(f"{call[2].dtype}, gradient {torch.is_grad_enabled()}"))
    return seen


def count_tokens(encoder: SentenceTransformer, pairs: list[Pair]) -> int:
    """Tokens that the encoder reads, without padding."""
    return sum(int(encoder.preprocess(list(pair))["attention_mask"].sum()) for pair in pairs)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("losses", *KEPT_TOKENS, "peer"))
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tokens-per-batch", type=int, default=DistillSection().tokens_per_batch)
    parser.add_argument("--mini-batch-size", type=int, help="of the peer's cached loss; default: its plain loss")
    return parser.parse_args()


if __name__ == "__main__":
    main()
