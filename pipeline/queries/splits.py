"""Assign queries to train, dev and test so that no passage and no wording is shared between splits."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pipeline.queries.given import Query, Reject

_EVALUATED = ("test", "dev")


def linked_groups(
    queries: Sequence[Query], same_passage: Mapping[str, str], same_query: Mapping[str, str]
) -> list[int]:
    """Group number of each query: equal for queries tied by a relevant passage or by wording, directly or in a chain.

    Args:
        same_passage: passage id -> representative of its near-duplicates (others stand for themselves).
        same_query: query id -> representative of its near-duplicates.
    """
    parent = list(range(len(queries)))

    def root(member: int) -> int:
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    first_with: dict[tuple[str, str], int] = {}
    for number, query in enumerate(queries):
        for tie in _ties(query, same_passage, same_query):
            parent[root(number)] = root(first_with.setdefault(tie, number))
    return [root(number) for number in range(len(queries))]


def _ties(query: Query, same_passage: Mapping[str, str], same_query: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    yield "query", same_query.get(query.query_id, query.query_id)
    for passage_id in query.relevant:
        yield "passage", same_passage.get(passage_id, passage_id)


def hold_out(queries: list[Query], groups: list[int], shares: Mapping[str, float], seed: int) -> list[Query]:
    """Move whole groups of train queries to other splits until each has its share of them, smallest groups first.

    Small groups first: one giant group (a passage that answers everything) must not become the test set.
    """
    members: dict[int, list[int]] = defaultdict(list)
    # A group that a given split knows stays: held out, it would cost that split its queries.
    taken = {group for group, query in zip(groups, queries, strict=True) if query.split != "train"}
    for number, query in enumerate(queries):
        if query.split == "train" and query.relevant and groups[number] not in taken:
            members[groups[number]].append(number)
    order = sorted(members)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda group: len(members[group]))
    pool = sum(len(numbers) for numbers in members.values())
    moved = list(queries)
    for split, share in shares.items():
        wanted = round(pool * share)
        while order and wanted > 0 and len(members[order[0]]) <= wanted:
            for number in members[order.pop(0)]:
                moved[number] = replace(queries[number], split=split)
                wanted -= 1
    return moved


def drop_leaks(
    queries: list[Query],
    same_passage: Mapping[str, str],
    same_query: Mapping[str, str],
    reject: Reject,
) -> tuple[list[Query], Counter[str]]:
    """Take out train queries that dev or test know, and dev queries that test knows; evaluation stays whole.

    A query leaks when it shares a relevant passage, or the wording up to near-duplicates, with the other split.
    """
    kept: list[Query] = []
    outcomes: Counter[str] = Counter()
    known: dict[tuple[str, str], str] = {}  # tie -> the evaluation split that has it
    for split in (*_EVALUATED, "train"):
        own = [query for query in queries if query.split == split]
        for query in own:
            leak = next((tie for tie in _ties(query, same_passage, same_query) if tie in known), None)
            if leak is None:
                kept.append(query)
                continue
            outcomes[f"{split}_queries_leaked"] += 1
            what = "wording" if leak[0] == "query" else f"passage {leak[1]!r}"
            reject("queries", None, query.query_id, f"{split} query shares its {what} with {known[leak]}")
        known.update({tie: split for query in own for tie in _ties(query, same_passage, same_query)})
    return kept, outcomes
