"""What every Ray Train worker runs: steps, dev evaluations, checkpoints, and resuming from the last of these."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import prepare_model

from pipeline.encoder.model import load_model, save_model
from pipeline.recipe import DistillSection, EncoderSection
from pipeline.training.batch import assemble
from pipeline.training.dev import DevSet, dev_score
from pipeline.training.examples import Example
from pipeline.training.losses import LOSSES
from pipeline.training.sampler import epoch_batches
from pipeline.training.step import BiEncoder, batch_loss, freeze_unused

MODEL, OPTIMIZER, STATE = "model", "optimizer.pt", "state.json"
SCORE = "dev_ndcg_at_10"


@dataclass(frozen=True)
class TrainingJob:
    """Everything a worker needs; plain data that travels to it."""

    encoder: EncoderSection
    distill: DistillSection
    seed: int
    examples: list[Example]
    dev: DevSet | None
    progress: Any  # handle of the actor that hears of finished steps


@dataclass
class State:
    """Where training stands. With seeds derived from the step, this and the two state dicts resume it exactly."""

    step: int = 0
    curve: list[dict[str, float | None]] = field(default_factory=list)  # step, mean loss since the last, dev score


def schedule(step: int, steps: int, warmup_ratio: float) -> float:
    """Factor of the peak learning rate at 0-based `step`: linear up over the warm-up, then linear down to 0."""
    warmup = max(1, round(steps * warmup_ratio))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def planned_batches(job: TrainingJob, workers: int) -> list[tuple[int, list[int]]]:
    """`(epoch, rows)` of every step of the whole training."""
    return [
        (epoch, rows)
        for epoch in range(job.distill.epochs)
        for rows in epoch_batches(len(job.examples), job.distill.batch_size, workers, job.seed, epoch)
    ]


def evaluation_steps(steps: int, job: TrainingJob) -> set[int]:
    """Step counts after which the encoder is evaluated and saved; the last is always one of them."""
    evaluations = job.distill.epochs * job.distill.evaluations_per_epoch
    return {round(steps * number / evaluations) for number in range(1, evaluations + 1)} | {steps}


class Worker:
    """One rank's model, optimiser and position."""

    def __init__(self, job: TrainingJob) -> None:
        context = ray.train.get_context()
        self.job, self.rank, self.workers = job, context.get_world_rank(), context.get_world_size()
        self.batches = planned_batches(job, self.workers)
        self.state = State()
        checkpoint = ray.train.get_checkpoint()
        with checkpoint.as_directory() if checkpoint else tempfile.TemporaryDirectory() as folder:
            saved = Path(folder) if checkpoint else None
            encoder = load_model(job.encoder, saved / MODEL if saved else None)
            freeze_unused(encoder)
            self.module = BiEncoder(encoder, job.distill.tokens_per_batch, autocast=True)
            self.model = prepare_model(self.module)
            self.optimizer = torch.optim.AdamW(
                [p for p in self.module.parameters() if p.requires_grad],
                lr=job.distill.learning_rate,
                weight_decay=job.distill.weight_decay,
            )
            if saved:
                self.optimizer.load_state_dict(torch.load(saved / OPTIMIZER, weights_only=True))
                self.state = State(**json.loads((saved / STATE).read_text()))

    def train(self) -> list[dict[str, float | None]]:
        """Run what is left; returns the curve. The first entry (step 0) is the untrained encoder."""
        evaluations = evaluation_steps(len(self.batches), self.job)
        if not self.state.curve:
            self.state.curve.append({"step": 0, SCORE: self.dev_score()})
        self.module.train()
        losses: list[float] = []
        while self.state.step < len(self.batches):
            losses.append(self.step(*self.batches[self.state.step]))
            self.state.step += 1
            if self.rank == 0:
                self.job.progress.update.remote(self.state.step, len(self.batches))
            if self.state.step in evaluations:
                self.checkpoint(sum(losses) / len(losses))
                losses.clear()
        return self.state.curve

    def step(self, epoch: int, rows: list[int]) -> float:
        section, step = self.job.distill, self.state.step
        # Dropout must not depend on what ran before, or a resumed run would differ from an uninterrupted one.
        torch.manual_seed((self.job.seed * 1_000_003 + step) * 1_009 + self.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = section.learning_rate * schedule(step, len(self.batches), section.warmup_ratio)
        batch = assemble(self.job.examples, rows, self.job.seed, epoch)
        loss = batch_loss(self.model, batch, LOSSES[section.loss], section.temperature, self.rank, self.workers)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), section.max_gradient_norm)
        self.optimizer.step()
        return float(loss.detach())

    def dev_score(self) -> float | None:
        """nDCG@10 on dev, computed by rank 0; None elsewhere and without dev queries."""
        if self.rank or self.job.dev is None:
            return None
        return dev_score(self.module, self.job.dev)

    def checkpoint(self, loss: float) -> None:
        score = self.dev_score()
        self.state.curve.append({"step": self.state.step, "loss": loss, SCORE: score})
        # Without dev queries the latest counts as best.
        metrics = {SCORE: self.state.step if score is None else score, "step": self.state.step}
        if self.rank:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            save_model(self.module.encoder, Path(folder) / MODEL)
            torch.save(self.optimizer.state_dict(), Path(folder) / OPTIMIZER)
            (Path(folder) / STATE).write_text(json.dumps(asdict(self.state)))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def train_worker(config: dict[str, Any]) -> list[dict[str, float | None]]:
    """Entry point of a Ray Train worker; `config` holds the TrainingJob under "job"."""
    job: TrainingJob = config["job"]
    torch.set_num_threads(max(1, int(job.distill.cpus_per_worker)))
    return Worker(job).train()
