"""Weights spread over two workers (FSDP2): the same training as in one process."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from sentence_transformers import SentenceTransformer
from torch.distributed.tensor import DTensor

from pipeline.encoder.model import load_model
from pipeline.encoder.side import PASSAGE
from pipeline.recipe import DistillSection, EncoderSection
from pipeline.training import weights
from pipeline.training.batch import Visit, assemble
from pipeline.training.bi_encoder import BiEncoder
from pipeline.training.examples import Example
from pipeline.training.group import Group
from pipeline.training.sampler import worker_slice
from pipeline.training.step import StepRecipe, accumulate_gradient
from tests.training.test_step import assert_same, recipe_of

TEXTS = ["red apple", "a rather longer text about the green tea of last night", "x"]
# Longer ones first: the first worker has more micro-batches than the second.
ROWS = [
    Example(name, f"query {name}", (name,), (f"{name} " * words,), negatives=(f"not {name} " * words,))
    for name, words in (("apple", 12), ("sky", 14), ("tea", 9), ("star", 2), ("sail", 1), ("mast", 1))
]
ARMS: dict[str, dict[str, object]] = {
    "cached": {"activation_tokens": 0},
    "some cached": {"activation_tokens": 150},
    "uncached adapters": {"activation_tokens": None, "lora_rank": 2},
}


def train(encoder: Path, folder: Path, sharded: bool, group: Group, **values: object) -> None:
    """Three steps, a save after the second from which a second model takes the third, all results in `folder`."""
    section = DistillSection(
        dtype="float32", learning_rate=1e-2, tokens_per_batch=64, sharded=sharded, max_gradient_norm=0.5, **values
    )

    def blank() -> SentenceTransformer:
        return load_model(EncoderSection(model=str(encoder)))

    def fresh() -> tuple[BiEncoder, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = weights.prepare(blank(), section, torch.device("cpu"))
        model.encoder.eval()  # dropout differs from worker to worker, as it should
        return model, weights.optimizer(model.parameters(), section, fused=not section.sharded)

    step, _ = recipe_of("soft_nn", section.activation_tokens)
    step = StepRecipe(step.objective, 0.05, activation_tokens=section.activation_tokens)
    batch = assemble(ROWS, range(len(ROWS)), Visit(), seed=0, epoch=0)
    model, optimizer = fresh()
    own = worker_slice(len(ROWS), group.rank, group.workers)
    texts = [text for text, owner in zip(batch.documents, batch.owner, strict=True) if own.start <= owner < own.stop]
    passes = len(model.micro_batches(batch.queries[own], texts))
    # A dev evaluation before the first step leaves nothing behind that training stumbles over.
    found = {"start": {"all": model.vectors(TEXTS, PASSAGE), "passes": torch.tensor(passes)}}
    for number in range(3):
        if number == 2:
            target = folder / f"rank-{group.rank}"
            target.mkdir()
            weights.save(model, optimizer, blank, target if group.rank == 0 else None)
            if group.workers > 1:
                dist.barrier()
            found["vectors"] = {"all": model.vectors(TEXTS, PASSAGE)}
            model, optimizer = fresh()
            weights.restore(model.encoder, optimizer, folder / "rank-0")
        optimizer.zero_grad()
        accumulate_gradient(model, batch, step, group)
        named = model.encoder.named_parameters()
        found[f"gradient {number}"] = {name: whole(p.grad) for name, p in named if p.grad is not None}
        torch.nn.utils.clip_grad_norm_(model.parameters(), section.max_gradient_norm)
        optimizer.step()
    found["weights"] = {name: whole(value) for name, value in model.encoder.state_dict().items()}
    torch.save(found, folder / f"{group.rank}.pt")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor().clone() if isinstance(tensor, DTensor) else tensor.clone()


def _worker(rank: int, encoder: Path, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for name, values in ARMS.items():
        (folder / name).mkdir(exist_ok=True)
        train(encoder, folder / name, True, Group(rank, 2), **values)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def sharded(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of both workers, by arm."""
    folder = tmp_path_factory.mktemp("sharded")
    torch.multiprocessing.spawn(_worker, (tiny_encoder, folder), nprocs=2)
    return folder


@pytest.mark.parametrize("arm", ARMS)
def test_spread_weights_train_like_whole_ones(arm: str, sharded: Path, tiny_encoder: Path, tmp_path: Path):
    """A gradient divided by the number of workers would go unnoticed with AdamW, and unequal passes would hang."""
    train(tiny_encoder, tmp_path, False, Group(), **ARMS[arm])
    expected = torch.load(tmp_path / "0.pt", weights_only=True)
    results = [torch.load(sharded / arm / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert results[0]["start"]["passes"] > results[1]["start"]["passes"]
    for found in results:
        assert found.keys() == expected.keys()
        for what in ("gradient 0", "gradient 1", "gradient 2"):
            assert_same(found[what], expected[what])
        for name, value in expected["weights"].items():
            assert torch.allclose(found["weights"][name], value, atol=1e-4), name
        assert torch.allclose(found["vectors"]["all"], expected["vectors"]["all"], atol=1e-3)


@pytest.mark.parametrize("arm", ARMS)
def test_spread_weights_are_released_as_a_plain_folder(arm: str, sharded: Path):
    assert not list((sharded / arm / "rank-1").iterdir())
    released = SentenceTransformer(str(sharded / arm / "rank-0" / weights.MODEL), device="cpu")
    found = torch.load(sharded / arm / "0.pt", weights_only=True)["vectors"]["all"]
    assert torch.allclose(torch.as_tensor(released.encode(TEXTS, convert_to_tensor=True)), found, atol=1e-5)
