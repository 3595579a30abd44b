"""Join queries, judgments, passages, synthetic documents, mined and preferred passages into training examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifact import Artifact
from pipeline.corpus.duplicates import representatives
from pipeline.queries.read import split_queries
from pipeline.records import full_text
from pipeline.stage import StageContext
from pipeline.training.examples import Example, to_table
from pipeline.training.keyed_rows import KeyedRows

# Queries joined at once: bounds the memory for texts, whatever the size of the training set.
QUERIES_AT_ONCE = 4096


@dataclass(frozen=True)
class Sources:
    """The finished stages and choices that examples are made from; those that are None bring nothing in."""

    ctx: StageContext
    synthetic: Sequence[str]  # kinds of LLM-written documents that enter
    graded: bool  # stage 2 needs every candidate's grade, not orders
    pairs: bool  # orders are the pairs that were compared, not the aggregated ones
    labels: bool = True  # labelled passages attract

    @property
    def _recorded(self) -> bool:
        preferences = self.ctx.recipe.preferences
        return preferences is not None and preferences.path is not None

    def examples(self) -> Iterator[list[Example]]:
        """Blocks of examples in order of query id; a query may have nothing that attracts."""
        queries = split_queries(self.ctx, "train", ("query_id",))["query_id"]
        same, lookups = representatives(self.ctx.inputs["corpus"].table("duplicates")), _Lookups(self.ctx.inputs)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            ids = queries.slice(start, QUERIES_AT_ONCE).to_pylist()
            yield [represented(example, same) for example in self._block(ids, lookups, same)]

    def _block(self, ids: Sequence[str], lookups: _Lookups, same: Mapping[str, str]) -> list[Example]:
        queries = lookups.by_query("queries", "queries", ids)
        judgments = lookups.by_query("queries", "judgments", ids) if self.labels else {}
        labels = {i: {row["passage_id"] for row in rows if row["grade"] > 0} for i, rows in judgments.items()}
        synthesis = lookups.by_query("synthesis", "synthesis", ids) if self.synthetic else {}
        mined = lookups.by_query("mine", "negatives", ids)
        taught = lookups.by_query("teach", "taught", ids)
        lists = {query_id: row for query_id, rows in taught.items() for row in rows if row["kind"] == "query"}
        orders = lookups.by_query("preferences", "orders", ids)
        pairs = lookups.by_query("preferences", "preferences", ids) if self.pairs else {}
        wanted = {passage for labelled in labels.values() for passage in labelled}
        wanted |= {row["passage_id"] for rows in mined.values() for row in rows}
        wanted |= {passage for rows in orders.values() for row in rows for passage in row["passage_ids"]}
        wanted |= {passage for row in lists.values() for passage in row["passage_ids"]}
        texts = lookups.texts(wanted)
        examples = []
        for query_id in ids:
            query = queries[query_id][0]["text"]
            example = labelled_example(query_id, query, sorted(labels.get(query_id, ())), texts, same)
            example = with_synthesis(example, synthesis.get(query_id, []), self.synthetic)
            example = with_mined(example, [row["passage_id"] for row in mined.get(query_id, [])], texts, same)
            if query_id in lists:
                example = with_list(example, lists[query_id], texts)
            if query_id in orders:
                chosen = [(row["better_id"], row["worse_id"]) for row in pairs.get(query_id, [])]
                example = with_preferences(
                    example, orders[query_id][0], chosen if self.pairs else None, texts, self.graded, self._recorded
                )
            examples.append(example)
        return examples

    def sentences(self) -> Iterator[list[Example]]:
        """Blocks of examples whose query is an LLM-written sentence: a teacher's list and nothing else."""
        same, lookups = representatives(self.ctx.inputs["corpus"].table("duplicates")), _Lookups(self.ctx.inputs)
        for batch in self.ctx.inputs["teach"].batches("taught") if "teach" in self.ctx.inputs else ():
            written = batch.filter(pc.not_equal(batch["kind"], "query"))
            for start in range(0, written.num_rows, QUERIES_AT_ONCE):
                rows = written.slice(start, QUERIES_AT_ONCE).to_pylist()
                wanted = {passage for row in rows for passage in row["passage_ids"]}
                texts = lookups.texts(wanted)
                listed = (with_list(Example(row["query_id"], row["text"]), row, texts) for row in rows)
                yield [represented(example, same) for example in listed]


class _Lookups:
    """The tables of a join, each copied once when it is first asked for."""

    def __init__(self, inputs: Mapping[str, Artifact]) -> None:
        self._inputs = inputs
        self._opened: dict[str, KeyedRows] = {}

    def by_query(self, stage: str, table: str, ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """Query id -> rows; nothing where the recipe has no such stage."""
        return self._open(stage, table, "query_id").of(ids) if stage in self._inputs else {}

    def texts(self, passage_ids: Iterable[str]) -> dict[str, str]:
        """What the encoder reads of the passages; those that are not in the corpus are absent."""
        found = self._open("corpus", "passages", "passage_id", ("passage_id", "title", "text")).of(passage_ids)
        return {passage_id: full_text(row["title"], row["text"]) for passage_id, (row, *_) in found.items()}

    def _open(self, stage: str, table: str, key: str, columns: Sequence[str] | None = None) -> KeyedRows:
        if table not in self._opened:
            self._opened[table] = KeyedRows(self._inputs[stage], table, key, columns)
        return self._opened[table]


def labelled_example(
    query_id: str, query: str, passage_ids: Sequence[str], texts: Mapping[str, str], same: Mapping[str, str]
) -> Example:
    """A passage without text (nothing to read) cannot attract."""
    present = [passage_id for passage_id in passage_ids if texts.get(passage_id)]
    return Example(
        query_id,
        query,
        labelled_ids=tuple(same.get(passage_id, passage_id) for passage_id in present),
        labelled=tuple(texts[passage_id] for passage_id in present),
    )


def with_synthesis(example: Example, rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> Example:
    """Add LLM-written documents; a relabelled p+ repels (Kim & Baek 2025, section 2.2)."""
    attract: list[str] = []
    repel: list[str] = []
    for row in rows:
        if "decomposition" in kinds:
            attract.append(row["decomposition"])
        if "negative" in kinds:
            repel.append(row["negative"])
        if "positive" in kinds and row["outcome"] != "dropped":
            (attract if row["outcome"] == "kept" else repel).append(row["positive"])
    positives = tuple(text for text in attract if text)
    return replace(example, positives=positives, negatives=tuple(t for t in repel if t and t not in positives))


def with_mined(
    example: Example, passage_ids: Sequence[str], texts: Mapping[str, str], same: Mapping[str, str]
) -> Example:
    ids = [i for i in passage_ids if same.get(i, i) not in example.labelled_ids and texts.get(i)]
    return replace(example, mined_ids=tuple(ids), mined=tuple(texts[i] for i in ids))


def with_list(example: Example, row: Mapping[str, Any], texts: Mapping[str, str]) -> Example:
    """Add a teacher's list: candidates and their scores."""
    known = [(i, s) for i, s in zip(row["passage_ids"], row["scores"], strict=True) if texts.get(i)]
    first = {texts[i]: i for i, _ in reversed(known)}
    listed = [(i, score) for i, score in known if first[texts[i]] == i]
    return replace(
        example,
        candidate_ids=tuple(i for i, _ in listed),
        candidates=tuple(texts[i] for i, _ in listed),
        grades=tuple(score for _, score in listed) if len(listed) > 1 else (),
    )


def with_preferences(
    example: Example,
    order: Mapping[str, Any],
    pairs: Sequence[tuple[str, str]] | None,
    texts: Mapping[str, str],
    graded: bool,
    recorded: bool = False,
) -> Example:
    """Add what the LLM prefers: orders among candidates (`pairs`, or the aggregated one), or, if `graded`, grades.

    Recorded grades of 0 mean irrelevant: nothing is preferred among such candidates, and an order ends before them.
    """
    # Of passages with the same text the first stands for all: they cannot be told apart.
    first = {texts[i]: i for i in reversed(order["passage_ids"]) if texts.get(i)}
    graded_ids = zip(order["passage_ids"], order["grades"], strict=True)
    known = [(i, float(grade)) for i, grade in graded_ids if texts.get(i) and first[texts[i]] == i]
    place = {passage_id: number for number, (passage_id, _) in enumerate(known)}
    is_decided = len(known) > 1 and (not recorded or any(grade > 0 for _, grade in known))
    orders: tuple[tuple[int, ...], ...]
    if pairs is not None:
        orders = tuple((place[a], place[b]) for a, b in pairs if a in place and b in place)
    else:
        orders = (tuple(range(len(known))),) if is_decided and not graded else ()
    with_grades = graded or (recorded and pairs is None)
    return replace(
        example,
        candidate_ids=tuple(place),
        candidates=tuple(texts[passage_id] for passage_id in place),
        grades=tuple(grade for _, grade in known) if with_grades and is_decided else (),
        orders=orders,
    )


def represented(example: Example, same: Mapping[str, str]) -> Example:
    """Passages go by the first of their near-duplicates, as labels do: that is how a batch knows them again."""
    return replace(
        example,
        mined_ids=tuple(same.get(i, i) for i in example.mined_ids),
        candidate_ids=tuple(same.get(i, i) for i in example.candidate_ids),
    )


def count(examples: Iterable[Example], outcomes: Counter[str]) -> None:
    """Add up what examples hold."""
    for example in examples:
        outcomes["examples"] += 1
        outcomes["examples_with_label"] += bool(example.labelled)
        outcomes["examples_with_synthetic_positive"] += bool(example.positives)
        outcomes["examples_with_synthetic_negative"] += bool(example.negatives)
        outcomes["examples_with_mined_negative"] += bool(example.mined)
        outcomes["examples_with_list"] += bool(example.orders or example.grades)


def as_tables(
    blocks: Iterable[list[Example]], usable: Any, outcomes: Counter[str], excluded: str
) -> Iterator[pa.Table]:
    """Tables of the usable examples; the others are counted under `excluded`."""
    for block in blocks:
        kept = [example for example in block if usable(example)]
        outcomes[excluded] += len(block) - len(kept)
        count(kept, outcomes)
        if kept:
            yield to_table(kept)
