"""A step over several workers against the same step in one process."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from pipeline.encoder.encode import embed
from pipeline.encoder.model import load_model
from pipeline.recipe import EncoderSection
from pipeline.training.batch import Batch, assemble
from pipeline.training.examples import Example
from pipeline.training.losses import soft_nn
from pipeline.training.step import BiEncoder, batch_loss, freeze_unused


def uneven_batch() -> Batch:
    """Five rows with one to four documents each, so that workers hold different numbers of both."""
    rows = [
        Example("a", "red apple", ("1",), ("apples are red",), ("a red fruit", "what is an apple"), ("a red car",)),
        Example("b", "blue sky", ("2",), ("the sky is blue because of scattering",), (), ()),
        Example("c", "green tea", ("3",), ("tea leaves",), (), ("green paint", "tea towel")),
        Example("d", "apple colour", ("1",), ("apples are red",), (), ()),
        Example("e", "night sky", ("5",), ("stars at night",), ("the sky is dark",), ()),
    ]
    return assemble(rows, range(5), seed=0, epoch=0)


def gradients(encoder: Path, rank: int, workers: int) -> tuple[dict[str, torch.Tensor], float]:
    model = load_model(EncoderSection(model=str(encoder)))
    freeze_unused(model)
    module = BiEncoder(model.eval(), tokens_per_batch=64, autocast=False)  # eval: no dropout
    wrapped = torch.nn.parallel.DistributedDataParallel(module) if workers > 1 else module
    loss = batch_loss(wrapped, uneven_batch(), soft_nn, 0.05, rank, workers)
    loss.backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}, float(loss.detach())


def _worker(rank: int, workers: int, encoder: Path, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    torch.set_num_threads(1)
    torch.save(gradients(encoder, rank, workers), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_together_have_the_gradient_of_one(workers: int, tiny_encoder: Path, tmp_path: Path):
    """Negatives of other workers without gradients, or a mean of unequal shares, would change it silently."""
    expected, loss = gradients(tiny_encoder, 0, 1)
    torch.multiprocessing.spawn(_worker, (workers, tiny_encoder, tmp_path), nprocs=workers)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(workers)]
    assert sum(part for _, part in results) / workers == pytest.approx(loss, rel=1e-5)
    for found, _ in results:
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert torch.allclose(found[name], gradient, atol=1e-5, rtol=1e-4), name


def test_training_embeds_like_encoding_whatever_the_batch_size(tiny_encoder: Path):
    model = load_model(EncoderSection(model=str(tiny_encoder))).eval()
    texts = ["one", "two words", "a rather longer text of many words", "x"]
    with torch.no_grad():
        together = embed(model, texts, None, tokens_per_batch=1000)
        alone = torch.cat([embed(model, [text], None, tokens_per_batch=1) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)


def test_loss_falls_when_the_same_batch_is_trained_on(tiny_encoder: Path):
    torch.manual_seed(0)
    model = load_model(EncoderSection(model=str(tiny_encoder)))
    freeze_unused(model)
    module = BiEncoder(model.train(), tokens_per_batch=256, autocast=True)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(15):
        loss = batch_loss(module, uneven_batch(), soft_nn, 0.05, 0, 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
