"""The evaluation set of the stdlib recipe: its questions and judgments."""

import csv
import json
from pathlib import Path

import pytest

from pipeline.corpus.pydoc import read_documentation

FOLDER = Path(__file__).parents[2] / "recipes" / "stdlib"
SPLITS = ("dev", "test")


@pytest.fixture(scope="module")
def queries() -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / "queries.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def judgments() -> dict[str, list[tuple[str, str, int]]]:
    splits = {}
    for split in SPLITS:
        with (FOLDER / "qrels" / f"{split}.tsv").open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        assert header == ["query-id", "corpus-id", "score"]
        splits[split] = [(query, passage, int(score)) for query, passage, score in rows]
    return splits


def test_every_judged_passage_exists_in_the_corpus(judgments: dict[str, list[tuple[str, str, int]]]) -> None:
    corpus = {each.name for each in read_documentation("stdlib")}
    judged = {passage for rows in judgments.values() for _, passage, _ in rows}
    assert not judged - corpus


def test_queries_have_unique_ids_and_texts(queries: list[dict[str, str]]) -> None:
    assert all(set(query) == {"_id", "text"} and query["text"].strip() for query in queries)
    assert len({query["_id"] for query in queries}) == len(queries)
    assert len({query["text"].casefold() for query in queries}) == len(queries)


def test_every_query_has_an_answer_in_exactly_one_split(
    queries: list[dict[str, str]], judgments: dict[str, list[tuple[str, str, int]]]
) -> None:
    dev, test = ({query for query, _, _ in judgments[split]} for split in SPLITS)
    assert not dev & test
    assert dev | test == {query["_id"] for query in queries}
    answered = {query for rows in judgments.values() for query, _, score in rows if score == 2}
    assert answered == dev | test


def test_judgments_are_graded_and_unique(judgments: dict[str, list[tuple[str, str, int]]]) -> None:
    rows = [row for split in SPLITS for row in judgments[split]]
    assert {score for _, _, score in rows} == {1, 2}
    assert len({(query, passage) for query, passage, _ in rows}) == len(rows)


def test_dev_and_test_share_no_relevant_passage(judgments: dict[str, list[tuple[str, str, int]]]) -> None:
    dev, test = ({passage for _, passage, _ in judgments[split]} for split in SPLITS)
    assert not dev & test
