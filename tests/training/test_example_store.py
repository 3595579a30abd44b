"""Examples on disk, by row."""

from pathlib import Path

import pytest

from pipeline.training.example_store import ExampleStore
from pipeline.training.examples import Example, example_rows, from_table, to_table
from pipeline.workspace import Workspace

EXAMPLES = [
    Example(
        f"q{n}", f"query {n}", ("1",), (f"passage {n}",), ("p+",) * (n % 3), candidates=("a", "b"), orders=((1, 0),)
    )
    for n in range(700)
]


def test_table_gives_back_the_examples():
    assert from_table(to_table(EXAMPLES)) == EXAMPLES


def test_rows_are_those_of_all_parts_in_order(tmp_path: Path):
    """An offset by one at a part's or a batch's border would train on other queries' documents."""
    workspace = Workspace(str(tmp_path))
    paths = []
    for number, (start, stop) in enumerate([(0, 257), (257, 258), (258, 700)]):
        paths.append(workspace.path("examples", f"part-{number}.parquet"))
        workspace.write_table(paths[-1], to_table(EXAMPLES[start:stop]))
    store = ExampleStore(workspace, paths, example_rows)
    assert len(store) == 700
    assert [store[row] for row in range(700)] == EXAMPLES
    assert store[255:260] == EXAMPLES[255:260]
    with pytest.raises(IndexError):
        store[700]
