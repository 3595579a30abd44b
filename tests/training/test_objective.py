"""What a training minimises, over whole batches."""

import pytest
import torch

from pipeline.recipe import AlignSection, DistillSection
from pipeline.training.batch import assemble
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
    section, distill = AlignSection(loss=loss), DistillSection()
    graded = loss in ("listwise", "margin_mse")
    row = Example(
        "a",
        "a",
        candidate_ids=("1", "2"),
        candidates=("good", "bad"),
        grades=(3.0, 0.0) if graded else (),
        orders=() if graded else ((0, 1),),
    )
    batch = assemble([row], [0], align_visit(section, distill), seed=0, epoch=0)
    assert batch.documents == ["good", "bad"]
    masks, objective = batch.masks(slice(0, 1)), align_objective(section, distill)
    assert objective(torch.tensor([[1.0, 0.0]]), masks) < objective(torch.tensor([[0.0, 1.0]]), masks)


def test_replay_adds_its_share_of_stage_one():
    row = Example("a", "a", ("7",), ("L",), candidate_ids=("1", "2"), candidates=("G", "B"), orders=((0, 1),))
    distill = DistillSection(teacher_weight=0.0)
    scores = torch.tensor([[0.3, 0.7, 0.1]])
    parts = []
    for replay in (0.0, 0.5, 1.0):
        section = AlignSection(replay=replay or 1e-9)
        batch = assemble([row], [0], align_visit(section, distill), seed=0, epoch=0)
        parts.append(align_objective(section, distill)(scores, batch.masks(slice(0, 1))))
    assert torch.allclose(parts[2] - parts[1], parts[1] - parts[0], atol=1e-6)


def test_grades_of_stage_two_are_no_teachers_list_in_the_replay():
    """They are on another scale, and the preference loss has them already."""
    row = Example("a", "a", ("7",), ("L",), candidate_ids=("1", "2"), candidates=("G", "B"), grades=(3.0, 0.0))
    section = AlignSection(loss="listwise", replay=0.5)
    found = []
    for teacher_weight in (0.0, 1.0):
        distill = DistillSection(teacher_weight=teacher_weight)
        batch = assemble([row], [0], align_visit(section, distill), seed=0, epoch=0)
        masks = batch.masks(slice(0, 1))
        found.append(align_objective(section, distill)(torch.tensor([[0.3, 0.7, 0.1]]), masks))
    assert torch.equal(found[0], found[1])
