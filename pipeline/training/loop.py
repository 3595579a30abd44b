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
from sentence_transformers import SentenceTransformer

from pipeline.encoder.model import load_model, trained_folder
from pipeline.errors import RayrieverError
from pipeline.recipe import TrainingSection
from pipeline.training import weights
from pipeline.training.batch import assemble
from pipeline.training.dev import dev_score
from pipeline.training.example_store import ExampleStore
from pipeline.training.job import SCORE, STATE, Outcome, State, TrainingJob
from pipeline.training.sampler import Sampler
from pipeline.training.schedule import factor
from pipeline.training.step import Group, StepResult, accumulate_gradient
from pipeline.workspace import Workspace

_KINDS = ("labelled", "synthetic", "repelled")


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
        self.examples = ExampleStore(Workspace(job.workspace), job.examples.parts)
        # Of the recipe's workers, not of those that are left: batches stay the same when nodes are lost.
        self.sampler = Sampler(
            job.examples.datasets, self.section.batch_size, self.section.epochs, self.section.workers, job.seed
        )
        # Adapters start with random weights: the same on every worker.
        torch.manual_seed(_folded(job.seed))
        encoder = self.untrained()
        _check_widths(job, encoder.get_embedding_dimension())
        self.model = weights.prepare(encoder, self.section, get_device())
        self.optimizer = weights.optimizer(self.model, self.section)
        self.state = State()
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                weights.restore(self.model, self.optimizer, Path(folder))
                self.state = State(**json.loads(Path(folder, STATE).read_text()))

    def untrained(self) -> SentenceTransformer:
        return load_model(self.job.encoder, trained_folder(self.job.workspace, self.job.start))

    def train(self) -> State:
        """Run what is left. The first entry of the curve (step 0) is the encoder that training starts from."""
        evaluations = evaluation_steps(self.sampler, self.section)
        if not self.state.curve:
            self.state.curve.append({"step": 0, SCORE: self.dev_score()})
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
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        epoch, rows = self.sampler.batch(step)
        task = self.job.task(rows[0])
        batch = assemble(self.examples, rows, task.visit, self.job.seed, epoch)
        self.optimizer.zero_grad()
        result = self._summed(accumulate_gradient(self.model, batch, task.step, self.group))
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.section.max_gradient_norm)
        self._refuse_unless_finite(result.loss, float(_whole(norm)), rows)
        self.optimizer.step()
        self._remember(result, epoch, rate, float(_whole(norm)), time.perf_counter() - began)
        return result.loss

    def _refuse_unless_finite(self, loss: float, norm: float, rows: list[int]) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        stage, queries = self.job.stage, ", ".join(self.examples[row].query_id for row in rows[:3])
        raise RayrieverError(
            f"{stage}: the loss or its gradient is not finite at step {self.state.step + 1} of {self.sampler.steps} "
            f"(queries {queries}, ...). Lower {stage}.learning_rate"
            + (f", or set {stage}.dtype to float32." if self.model.autocast else ".")
        )

    def _summed(self, result: StepResult) -> StepResult:
        """Of all workers, so that every one of them sees the same and none goes on alone."""
        if self.group.workers == 1:
            return result
        kinds = [value for kind in _KINDS for value in (result.similarity.get(kind, 0.0), result.columns.get(kind, 0))]
        values = torch.tensor([result.loss, result.tokens, *kinds], dtype=torch.float64, device=self.model.device)
        dist.all_reduce(values)
        loss, tokens, *kinds = values.tolist()
        return StepResult(
            loss,
            int(tokens),
            dict(zip(_KINDS, kinds[::2], strict=True)),
            {kind: int(count) for kind, count in zip(_KINDS, kinds[1::2], strict=True)},
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
        for kind, count in result.columns.items():
            if count:
                row[f"cosine_{kind}"] = result.similarity[kind] / count
        self.state.metrics.append(row)

    def dev_score(self) -> float | None:
        """nDCG@10 on dev, computed by rank 0 (by all where weights are spread); None elsewhere, or without queries."""
        if self.job.dev is None or (self.group.rank and not self.model.sharded):
            return None
        return dev_score(self.model, self.job.dev)

    def evaluate(self, loss: float) -> None:
        score = self.dev_score()
        self.state.curve.append({"step": self.state.step, "loss": loss, SCORE: score})
        self._count_patience(score)
        # Without dev queries the latest counts as best.
        metrics = {SCORE: self.state.step if score is None else score, "step": self.state.step}
        first = self.group.rank == 0
        with tempfile.TemporaryDirectory() if first else nullcontext() as folder:
            weights.save(self.model, self.optimizer, self.untrained, Path(folder) if folder else None)
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
            stopped = torch.tensor(int(self.state.stopped), device=self.model.device)
            dist.broadcast(stopped, 0)
            self.state.stopped = bool(stopped)


def _check_widths(job: TrainingJob, dimension: int | None) -> None:
    wrong = [width for width in job.section.matryoshka if not 1 <= width <= (dimension or width)]
    if wrong:
        raise RayrieverError(f"{job.stage}.matryoshka: {wrong[0]} is not from 1 to {dimension}, the encoder's width.")


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
