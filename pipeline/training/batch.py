"""A training batch: its documents as columns, and what each of them is to each query."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pipeline.training.examples import Example


@dataclass(frozen=True)
class Visit:
    """What one visit of a query brings into its batch."""

    contrast: bool = True  # one labelled passage, the synthetic documents and some mined ones
    hard_negatives: int = 0  # mined passages drawn
    candidates: Literal["none", "order", "list"] = "none"  # those of one order, or all that are graded
    depth: int | None = None  # places of the order that are ranked; those after it only compete
    list_size: int | None = None  # graded candidates drawn, the best always among them; None for all


@dataclass(frozen=True)
class Row:
    """Columns of a batch as one query sees them. A column under no heading is a negative."""

    labelled: tuple[int, ...] = ()
    synthetic: tuple[int, ...] = ()  # synthetic positives
    repelled: tuple[int, ...] = ()  # its own negatives
    order: tuple[int, ...] = ()  # best first
    graded: tuple[tuple[int, float], ...] = ()
    listed: tuple[int, ...] = ()  # every column that its order or grades brought in
    known: tuple[int, ...] = ()  # columns of anyone that are relevant, or whose relevance to the query is graded


@dataclass(frozen=True)
class Masks:
    """`[b, M]` tensors of b rows and M columns."""

    positive: Tensor  # bool
    weights: Tensor  # float: of each positive
    ignore: Tensor  # bool: enters no sum of the contrastive loss
    order: Tensor  # [b, D] columns best first, -1 ends a row
    grades: Tensor  # float: NaN where the column is no candidate of the row
    preference_ignore: Tensor  # bool: enters no sum of the preference loss

    def of(self, rows: Tensor) -> Masks:
        """The masks of some of the rows."""
        return Masks(**{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Batch:
    """B queries and M distinct documents; document j came in with row `owner[j]`, in order of rows."""

    queries: list[str]
    documents: list[str]
    owner: list[int]
    rows: list[Row]
    weights: list[float]  # of the rows in the mean loss

    def masks(self, rows: slice, synthetic_weight: float = 1.0) -> Masks:
        """The chosen rows as dense tensors: built in pieces, for B x M does not fit where B is in the thousands."""
        chosen = self.rows[rows]
        shape = (len(chosen), len(self.documents))
        positive = _marks(shape, (row.labelled + row.synthetic for row in chosen))
        weights = torch.ones(shape)
        grades = torch.full(shape, float("nan"))
        order = torch.full((len(chosen), max(len(row.order) for row in chosen)), -1, dtype=torch.long)
        for place, row in enumerate(chosen):
            weights[place, list(row.synthetic)] = synthetic_weight
            order[place, : len(row.order)] = torch.tensor(row.order, dtype=torch.long)
            for column, grade in row.graded:
                grades[place, column] = grade
        listed = _marks(shape, (row.listed for row in chosen))
        own = _marks(shape, (row.labelled + row.synthetic + row.repelled for row in chosen))
        known = _marks(shape, (row.known for row in chosen))
        return Masks(
            positive=positive,
            weights=weights,
            ignore=(known | listed) & ~own,
            order=order,
            grades=grades,
            preference_ignore=(known | own) & ~listed,
        )


def assemble(examples: Sequence[Example], rows: Sequence[int], visit: Visit, seed: int, epoch: int) -> Batch:
    """The batch of the given rows of `examples`.

    A text is one column however many rows bring it in: it repels once. What a row knows to be relevant or graded for
    its query, by id or by text, and did not bring in itself, is no negative of that row; nor is what another row of the
    same query knows to be relevant.
    """
    visited = [examples[row] for row in rows]
    columns = _Columns()
    drawn = [
        columns.add(place, example, visit, random.Random(f"{seed}-{epoch}-{row}"), epoch)
        for place, (row, example) in enumerate(zip(rows, visited, strict=True))
    ]
    return Batch(
        queries=[example.query for example in visited],
        documents=list(columns.numbers),
        owner=columns.owner,
        rows=columns.with_known(drawn, visited),
        weights=[example.weight for example in visited],
    )


class _Columns:
    """The documents of a batch in the making."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}  # text -> column
        self.owner: list[int] = []
        self._by_id: dict[str, int] = {}

    def add(self, place: int, example: Example, visit: Visit, chance: random.Random, epoch: int) -> Row:
        """Bring in one row's documents. Draws depend on (seed, epoch, row) alone, never on the batch."""
        labelled = synthetic = repelled = ()  # type: tuple[int, ...]
        if visit.contrast:
            if example.labelled:
                labelled = self._of_corpus(
                    place, example.labelled, example.labelled_ids, [chance.randrange(len(example.labelled))]
                )
            synthetic = self._written(place, (text for text in example.positives if text not in example.labelled))
            taken = chance.sample(range(len(example.mined)), min(visit.hard_negatives, len(example.mined)))
            repelled = self._written(place, example.negatives)
            repelled += self._of_corpus(place, example.mined, example.mined_ids, taken)
            repelled = tuple(column for column in repelled if column not in labelled + synthetic)
        listed, order, graded = self._candidates(place, example, visit, chance, epoch)
        return Row(labelled, synthetic, repelled, order, graded, listed)

    def _candidates(
        self, place: int, example: Example, visit: Visit, chance: random.Random, epoch: int
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, float], ...]]:
        if visit.candidates == "list" and example.grades:
            drawn = _draw_graded(example.grades, visit.list_size, chance)
            graded: dict[int, float] = {}
            for number in drawn:
                (column,) = self._of_corpus(place, example.candidates, example.candidate_ids, [number])
                graded.setdefault(column, example.grades[number])  # near-duplicates are one column
            return tuple(graded), (), tuple(graded.items())
        if visit.candidates == "order" and example.orders:
            # Every order once before any twice.
            turn = chance_order(len(example.orders), example.query_id)[epoch % len(example.orders)]
            order = example.orders[turn]
            listed = self._of_corpus(place, example.candidates, example.candidate_ids, order)
            # Where grades are known, too, those of 0 have no place in the order: they only compete.
            relevant = [number for number in order if not example.grades or example.grades[number] > 0]
            ranked = set(self._of_corpus(place, example.candidates, example.candidate_ids, relevant))
            return listed, tuple(column for column in listed if column in ranked)[: visit.depth], ()
        return (), (), ()

    def _written(self, place: int, texts: Iterable[str]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self._column(place, text) for text in texts))

    def _of_corpus(
        self, place: int, texts: Sequence[str], ids: Sequence[str], chosen: Sequence[int]
    ) -> tuple[int, ...]:
        for number in chosen:
            # Near-duplicates share an id: the first that comes in stands for all.
            if ids[number] not in self._by_id:
                self._by_id[ids[number]] = self._column(place, texts[number])
        return tuple(dict.fromkeys(self._by_id[ids[number]] for number in chosen))

    def _column(self, place: int, text: str) -> int:
        if text not in self.numbers:
            self.numbers[text] = len(self.numbers)
            self.owner.append(place)
        return self.numbers[text]

    def with_known(self, rows: Sequence[Row], examples: Sequence[Example]) -> list[Row]:
        """The rows, all of whose columns are there now, with what is known of them."""
        relevant: dict[str, set[int]] = defaultdict(set)
        for example in examples:
            relevant[example.query_id] |= self._present(example.labelled_ids, (*example.labelled, *example.positives))
        found = []
        for row, example in zip(rows, examples, strict=True):
            known = relevant[example.query_id] | self._present(example.candidate_ids, ())
            # A table may list a passage under both; a label of another visit attracts, and must not repel in this one.
            repelled = tuple(column for column in row.repelled if column not in relevant[example.query_id])
            found.append(replace(row, repelled=repelled, known=tuple(sorted(known))))
        return found

    def _present(self, ids: Iterable[str], texts: Iterable[str]) -> set[int]:
        columns = (*(self._by_id.get(i) for i in ids), *(self.numbers.get(text) for text in texts))
        return {column for column in columns if column is not None}


def chance_order(count: int, seed: str) -> list[int]:
    """Numbers below `count` in an order drawn from the seed."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def _draw_graded(grades: Sequence[float], size: int | None, chance: random.Random) -> list[int]:
    if size is None or size >= len(grades):
        return list(range(len(grades)))
    best = max(range(len(grades)), key=grades.__getitem__)
    return [best, *chance.sample([number for number in range(len(grades)) if number != best], size - 1)]


def _marks(shape: tuple[int, int], columns: Iterable[Sequence[int]]) -> Tensor:
    marks = torch.zeros(shape, dtype=torch.bool)
    for place, chosen in enumerate(columns):
        marks[place, list(chosen)] = True
    return marks
