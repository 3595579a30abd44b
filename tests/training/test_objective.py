"""What a training minimises, over whole batches."""

from dataclasses import replace

import pytest
import torch

from pipeline.recipe import AlignSection, DistillSection, EncoderSection
from pipeline.training.batch import assemble
from pipeline.training.encoder_learner import EncoderTrainee
from pipeline.training.examples import Example
from pipeline.training.objective import align_objective, align_visit, distill_objective, distill_visit

LISTED = {"candidate_ids": ("1", "2", "3"), "candidates": ("A", "B", "C"), "grades": (1.2, 0.9, 0.5)}


def losses(rows: list[Example], section: DistillSection, scores: torch.Tensor | None = None) -> torch.Tensor:
    batch = assemble(rows, range(len(rows)), distill_visit(section), seed=0, epoch=0)
    if scores is None:
        scores = torch.arange(len(rows) * len(batch.documents), dtype=torch.float32).reshape(len(rows), -1) / 7
    return distill_objective(section)(scores, batch.masks(slice(0, len(rows))))


def test_list_teaches_its_order_and_the_rest_of_the_batch_is_below_it():
    """Without the batch as competitor a query could be as near to everything as to its own list."""
    rows = [
        Example("a", "a", **LISTED),
        Example("b", "b", candidate_ids=("8", "9"), candidates=("X", "Y"), grades=(2, 1)),
    ]
    section = DistillSection(teacher_candidates=3, teacher_temperature=0.1)
    scores = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    losses(rows, section, scores).sum().backward()
    batch = assemble(rows, [0, 1], distill_visit(section), seed=0, epoch=0)
    target = torch.zeros(2, 5)
    grades = dict(zip("ABC", LISTED["grades"], strict=True)) | {"X": 2.0, "Y": 1.0}
    for row, own in enumerate(("ABC", "XY")):
        columns = [batch.documents.index(name) for name in own]
        target[row, columns] = (torch.tensor([grades[name] for name in own]) / 0.1).softmax(0)
    assert torch.allclose(scores.grad, scores.detach().softmax(1) - target, atol=1e-3)


def test_sentence_without_a_positive_learns_its_list_only():
    """Contrastive losses refuse a row without a positive: it must not reach them, nor bring down the batch."""
    rows = [Example("a", "a", ("7",), ("L",)), Example("b", "b", **LISTED)]
    together = losses(rows, DistillSection(teacher_weight=1.0))
    assert torch.isfinite(together).all() and (together > 0).all()
    untaught = losses(rows, DistillSection(teacher_weight=0.0), torch.zeros(2, 1))
    assert untaught[1] == 0


def test_teacher_weight_scales_the_list_s_part_alone():
    rows = [Example("a", "a", ("7",), ("L",), **LISTED), Example("b", "b", ("8",), ("M",))]
    scores = torch.randn(2, 4 + 1, generator=torch.Generator().manual_seed(1))
    at = [losses(rows, DistillSection(teacher_weight=w, teacher_candidates=3), scores) for w in (1.0, 2.0, 3.0)]
    assert torch.allclose(at[1] - at[0], at[2] - at[1], atol=1e-5) and (at[1] - at[0])[0] > 0
    assert at[0][1] == at[1][1]


@pytest.mark.parametrize("loss", ["partial_pl", "bradley_terry", "listwise", "margin_mse"])
def test_every_alignment_loss_falls_when_the_preferred_one_rises(loss: str):
    section = AlignSection(loss=loss)
    graded = loss in ("listwise", "margin_mse")
    row = Example(
        "a",
        "a",
        candidate_ids=("1", "2"),
        candidates=("good", "bad"),
        grades=(3.0, 0.0) if graded else (),
        orders=() if graded else ((0, 1),),
    )
    batch = assemble([row], [0], align_visit(section), seed=0, epoch=0)
    assert batch.documents == ["good", "bad"]
    masks, objective = batch.masks(slice(0, 1)), align_objective(section)
    assert objective(torch.tensor([[1.0, 0.0]]), masks) < objective(torch.tensor([[0.0, 1.0]]), masks)


def test_replayed_rows_are_visited_and_scored_as_stage_one_does():
    """Scored as preferences, a teacher's list would be an order, and a label nothing at all."""
    distill, align = DistillSection(loss="infonce", temperature=0.1), AlignSection(loss="listwise", temperature=0.2)
    trainee = EncoderTrainee(EncoderSection(), None, distill, align, None)
    own, replayed = trainee.task(4, replayed_from=5), trainee.task(5, replayed_from=5)
    assert (own.visit, own.step.temperature) == (align_visit(align), 0.2)
    assert (replayed.visit, replayed.step.temperature) == (distill_visit(distill), 0.1)
    assert replayed.visit.contrast and not own.visit.contrast
    assert replace(trainee, align=None).task(0, None).visit == distill_visit(distill)
    assert trainee.task(7, None).visit == align_visit(align)
