"""What every Ray Train worker runs: steps, dev evaluations, checkpoints, and resuming from the last of these."""

from __future__ import annotations

import json
import math
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import get_device

from pipeline.errors import RayrieverError
from pipeline.recipe import TrainingSection
from pipeline.training.group import Group, StepResult
from pipeline.training.job import SCORE, STATE, Outcome, State, TrainingJob
from pipeline.training.sampler import Sampler
from pipeline.training.schedule import factor


def evaluation_steps(sampler: Sampler, section: TrainingSection) -> set[int]:
    """Step counts after which the encoder is evaluated and saved; the last is always one of them."""
    evaluations = section.epochs * section.evaluations_per_epoch
    return {round(sampler.steps * number / evaluations) for number in range(1, evaluations + 1)} - {0} | {sampler.steps}


class Worker:
    """One rank's model, optimiser and position."""

    def __init__(self, job: TrainingJob) -> None:
        context = ray.train.get_context()
        self.job, self.section = job, job.section
        self.group = Group(context.get_world_rank(), context.get_world_size())
        # Of the recipe's workers, not of those that are left: batches stay the same when nodes are lost.
        self.sampler = Sampler(
            job.examples.datasets, self.section.batch_size, self.section.epochs, self.section.workers, job.seed
        )
        # Adapters and heads start with random weights: the same on every worker.
        torch.manual_seed(_folded(job.seed))
        self.device = get_device()
        self.learner = job.trainee.learner(job, self.device, self.group)
        self.state = State()
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                self.learner.restore(Path(folder))
                self.state = State(**json.loads(Path(folder, STATE).read_text()))

    def train(self) -> State:
        """Run what is left. The first entry of the curve (step 0) is the model that training starts from."""
        evaluations = evaluation_steps(self.sampler, self.section)
        if not self.state.curve:
            self.state.curve.append({"step": 0, SCORE: self.learner.dev_score()})
        losses: list[float] = []
        while self.state.step < self.sampler.steps and not self.state.stopped:
            losses.append(self.step())
            self.state.step += 1
            if self.group.rank == 0:
                self.job.listener.update.remote(self.state.step, self.sampler.steps, self.state.metrics[-1])
            if self.state.step in evaluations:
                self.evaluate(sum(losses) / len(losses))
                losses.clear()
        return self.state

    def step(self) -> float:
        step, began = self.state.step, time.perf_counter()
        # Dropout must not depend on what ran before, or a resumed run would differ from an uninterrupted one.
        torch.manual_seed(_folded((self.job.seed * 1_000_003 + step) * 1_009 + self.group.rank))
        rate = self.section.learning_rate * factor(
            step, self.sampler.steps, self.section.warmup_ratio, self.section.schedule
        )
        optimizer = self.learner.optimizer
        for group in optimizer.param_groups:
            group["lr"] = rate
        epoch, rows = self.sampler.batch(step)
        optimizer.zero_grad()
        result = self.learner.accumulate(epoch, rows)
        result = result.summed(self.group, self.job.trainee.figures, self.device)
        norm = float(_whole(torch.nn.utils.clip_grad_norm_(self.learner.parameters(), self.section.max_gradient_norm)))
        self._refuse_unless_finite(result.loss, norm, rows)
        optimizer.step()
        self._remember(result, epoch, rate, norm, time.perf_counter() - began)
        return result.loss

    def _refuse_unless_finite(self, loss: float, norm: float, rows: list[int]) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        stage, queries = self.job.stage, ", ".join(map(self.learner.name, rows[:3]))
        raise RayrieverError(
            f"{stage}: the loss or its gradient is not finite at step {self.state.step + 1} of {self.sampler.steps} "
            f"(queries {queries}, ...). Lower {stage}.learning_rate"
            + (f", or set {stage}.dtype to float32." if self.learner.autocast else ".")
        )

    def _remember(self, result: StepResult, epoch: int, rate: float, norm: float, seconds: float) -> None:
        row = {
            "step": self.state.step + 1,
            "epoch": epoch,
            "loss": result.loss,
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens_per_second": result.tokens / seconds,
        }
        self.state.metrics.append(row | result.means)

    def evaluate(self, loss: float) -> None:
        score = self.learner.dev_score()
        self.state.curve.append({"step": self.state.step, "loss": loss, SCORE: score})
        self._count_patience(score)
        # Without dev queries the latest counts as best.
        metrics = {SCORE: self.state.step if score is None else score, "step": self.state.step}
        first = self.group.rank == 0
        with tempfile.TemporaryDirectory() if first else nullcontext() as folder:
            self.learner.save(Path(folder) if folder else None)
            if folder is not None:
                (Path(folder) / STATE).write_text(json.dumps(asdict(self.state)))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder) if folder else None)

    def _count_patience(self, score: float | None) -> None:
        """Decide on rank 0, and tell the others, whether more evaluations are worth it."""
        if self.group.rank == 0 and score is not None:
            better = score > self.state.best
            self.state.best = max(score, self.state.best)
            self.state.evaluations_since_best = 0 if better else self.state.evaluations_since_best + 1
            self.state.stopped = self.state.evaluations_since_best == self.section.patience
        if self.group.workers > 1:
            stopped = torch.tensor(int(self.state.stopped), device=self.device)
            dist.broadcast(stopped, 0)
            self.state.stopped = bool(stopped)


def _folded(seed: int) -> int:
    """Torch refuses seeds of more than 64 bits."""
    return seed % 2**63


def _whole(norm: Any) -> Any:
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def train_worker(config: dict[str, Any]) -> Outcome:
    """Entry point of a Ray Train worker; `config` holds the TrainingJob under "job"."""
    job: TrainingJob = config["job"]
    torch.set_num_threads(max(1, int(job.section.cpus_per_worker)))
    try:
        state = Worker(job).train()
    except RayrieverError as error:
        return Outcome([], [], str(error))
    return Outcome(state.curve, state.metrics)
