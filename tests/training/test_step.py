"""A step's gradient: cached against whole, several workers against one, against a plain reference."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from pipeline.encoder.encode import embed
from pipeline.encoder.model import load_model
from pipeline.recipe import AlignSection, DistillSection, EncoderSection
from pipeline.training import objective, weights
from pipeline.training.batch import Batch, Visit, assemble
from pipeline.training.examples import Example
from pipeline.training.gradient_cache import cached_passes
from pipeline.training.group import Group
from pipeline.training.step import StepRecipe, accumulate_gradient

DISTILL = DistillSection(dtype="float32")
ALIGN = AlignSection(dtype="float32")


def uneven_batch(visit: Visit) -> Batch:
    """Five rows with one to four documents each, so that workers hold different numbers of both."""
    rows = [
        Example("a", "red apple", ("1",), ("apples are red",), ("a red fruit", "what is an apple"), ("a red car",)),
        Example("b", "blue sky", ("2",), ("the sky is blue because of scattering",)),
        Example("c", "green tea", ("3",), ("tea leaves",), (), ("green paint", "tea towel"), ("9",), ("a teapot",)),
        Example("d", "apple colour", ("1",), ("apples are red",)),
        Example("e", "night sky", ("5",), ("stars at night",), ("the sky is dark",)),
    ]
    pairs = {"candidate_ids": ("1", "7"), "candidates": ("apples are red", "paint"), "orders": ((0, 1),)}
    weighted = [replace(row, weight=1 + number / 4, **pairs) for number, row in enumerate(rows)]
    return assemble(weighted, range(5), visit, seed=0, epoch=0)


def recipe_of(loss: str, kept: int | None) -> tuple[StepRecipe, Visit]:
    if loss == "partial_pl":
        return (
            StepRecipe(objective.align_objective(ALIGN), 0.05, activation_tokens=kept),
            objective.align_visit(ALIGN),
        )
    section = DistillSection(loss=loss, dtype="float32")
    step = StepRecipe(objective.distill_objective(section), 0.05, 0.3, (8, 16), activation_tokens=kept)
    return step, objective.distill_visit(section)


def gradients(
    encoder: Path, group: Group, loss: str = "soft_nn", kept: int | None = 0, dropout: bool = False, tokens: int = 64
) -> tuple[dict[str, torch.Tensor], float]:
    section = DistillSection(dtype="float32", tokens_per_batch=tokens)
    model = weights.prepare(load_model(EncoderSection(model=str(encoder))), section, torch.device("cpu"))
    model.encoder.train(dropout)
    torch.manual_seed(3)
    step, visit = recipe_of(loss, kept)
    result = accumulate_gradient(model, uneven_batch(visit), step, group)
    named = model.encoder.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}, result.loss


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() and expected
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-5, rtol=1e-4), name


def _worker(rank: int, workers: int, encoder: Path, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    torch.set_num_threads(1)
    torch.save({loss: gradients(encoder, Group(rank, workers), loss) for loss in LOSSES}, folder / f"{rank}.pt")
    dist.destroy_process_group()


LOSSES = ("soft_nn", "supcon", "partial_pl")


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_together_have_the_gradient_of_one(workers: int, tiny_encoder: Path, tmp_path: Path):
    """Negatives of other workers without gradients, or a mean of unequal shares, would change it silently."""
    torch.multiprocessing.spawn(_worker, (workers, tiny_encoder, tmp_path), nprocs=workers)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(workers)]
    for loss in LOSSES:
        expected, value = gradients(tiny_encoder, Group(), loss)
        assert sum(result[loss][1] for result in results) == pytest.approx(value, rel=1e-5)
        for result in results:
            assert_same(result[loss][0], expected)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dropout", [False, True])
def test_gradient_cache_has_the_gradient_of_the_whole_batch(loss: str, dropout: bool, tiny_encoder: Path):
    """With dropout, a second pass with other random numbers would give the gradient of another function."""
    expected, value = gradients(tiny_encoder, Group(), loss, kept=None, dropout=dropout)
    for kept in (0, 130):
        found, cached_value = gradients(tiny_encoder, Group(), loss, kept=kept, dropout=dropout)
        assert cached_value == pytest.approx(value, rel=1e-6)
        assert_same(found, expected)


def test_activations_are_kept_within_their_budget_and_no_more(tiny_encoder: Path):
    """One micro-batch too many is memory that the machine does not have; one too few is time."""
    section = DistillSection(dtype="float32", tokens_per_batch=64)
    model = weights.prepare(load_model(EncoderSection(model=str(tiny_encoder))), section, torch.device("cpu"))
    pieces = model.micro_batches([], ["word " * n for n in (60, 55, 50, 20, 20, 20)])
    sizes = [piece.size for piece in pieces]
    assert len(sizes) > 3
    for budget in range(0, sum(sizes) + 10, 7):
        cached = cached_passes(sizes, budget)
        kept = sum(sizes[cached:])
        assert kept <= budget or cached == len(sizes) - 1, "the last pass always keeps its own"
        assert cached == 0 or kept + sizes[cached - 1] > budget
    assert cached_passes(sizes, None) == 0


def test_gradient_does_not_depend_on_the_micro_batches(tiny_encoder: Path):
    assert_same(gradients(tiny_encoder, Group(), tokens=64)[0], gradients(tiny_encoder, Group(), tokens=100_000)[0])


def test_heavy_row_counts_as_often_as_its_weight(tiny_encoder: Path):
    """The mean of a batch with a row three times is that of the batch with this row's weight at 3."""
    section = DistillSection(loss="infonce", dtype="float32")
    step = StepRecipe(objective.distill_objective(section), 0.05)

    def gradient(weights_of: list[float], times: int) -> dict[str, torch.Tensor]:
        model = weights.prepare(load_model(EncoderSection(model=str(tiny_encoder))), section, torch.device("cpu"))
        model.encoder.eval()
        rows = [Example(each, f"query {each}", (each,), (f"text {each}",)) for each in "ab"]
        weighted = [replace(row, weight=weight) for row, weight in zip(rows, weights_of, strict=True)]
        batch = assemble([*weighted, *[weighted[1]] * (times - 1)], range(1 + times), Visit(), seed=0, epoch=0)
        accumulate_gradient(model, batch, step)
        return {name: p.grad.clone() for name, p in model.encoder.named_parameters() if p.grad is not None}

    assert_same(gradient([1.0, 3.0], 1), gradient([1.0, 1.0], 3))


def test_two_halves_of_the_gradient_are_that_of_one_graph(tiny_encoder: Path):
    """Against autograd through everything at once, without any of our step's code."""
    model = load_model(EncoderSection(model=str(tiny_encoder))).eval()
    batch = uneven_batch(Visit())
    queries, documents = (embed(model, texts, None, 10_000) for texts in (batch.queries, batch.documents))
    scores, masks = queries @ documents.T / 0.05, batch.masks(slice(0, 5))
    everyone = scores.masked_fill(masks.ignore, -torch.inf).logsumexp(1)
    per_row = everyone - scores.masked_fill(~masks.positive, -torch.inf).logsumexp(1)
    (per_row @ torch.tensor(batch.weights) / sum(batch.weights)).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    section = DistillSection(dtype="float32")
    ours = weights.prepare(load_model(EncoderSection(model=str(tiny_encoder))), section, torch.device("cpu"))
    ours.encoder.eval()
    accumulate_gradient(ours, batch, StepRecipe(objective.distill_objective(section), 0.05))
    assert_same({name: p.grad for name, p in ours.encoder.named_parameters() if p.grad is not None}, expected)


def test_loss_in_pieces_of_rows_is_the_loss_at_once(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch):
    whole = gradients(tiny_encoder, Group())
    monkeypatch.setattr("pipeline.training.step._SCORES_AT_ONCE", 20)
    pieces = gradients(tiny_encoder, Group())
    assert pieces[1] == pytest.approx(whole[1], rel=1e-6)
    assert_same(pieces[0], whole[0])


def test_training_embeds_like_encoding_whatever_the_batch_size(tiny_encoder: Path):
    encoder = load_model(EncoderSection(model=str(tiny_encoder)))
    texts = ["one", "two words", "a rather longer text of many words", "x"]
    model = weights.prepare(encoder, DistillSection(dtype="float32", tokens_per_batch=64), torch.device("cpu"))
    with torch.no_grad():
        alone = torch.cat([embed(encoder.eval(), [text], None, tokens_per_batch=1) for text in texts])
    assert torch.allclose(model.vectors(texts, "document"), alone, atol=1e-5)


def test_training_inputs_are_cut_but_the_encoder_keeps_its_length(tiny_encoder: Path):
    """A saved encoder that reads 8 tokens because training did would ruin search silently."""
    encoder = load_model(EncoderSection(model=str(tiny_encoder)))
    before = encoder.max_seq_length
    model = weights.prepare(encoder, DistillSection(max_tokens=8), torch.device("cpu"))
    pieces = model.micro_batches(["word " * 50], ["word " * 50])
    assert {piece.tokens for piece in pieces} == {8}
    assert encoder.max_seq_length == before


def test_loss_falls_when_the_same_batch_is_trained_on(tiny_encoder: Path):
    torch.manual_seed(0)
    section = DistillSection(learning_rate=1e-3)
    model = weights.prepare(load_model(EncoderSection(model=str(tiny_encoder))), section, torch.device("cpu"))
    optimizer = weights.optimizer(model.parameters(), section)
    step, visit = recipe_of("soft_nn", kept=0)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(accumulate_gradient(model, uneven_batch(visit), step).loss)
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
