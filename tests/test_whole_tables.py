"""Tables that go through Ray Data in one piece."""

import pyarrow as pa
import pytest
import ray.data

from pipeline.whole_tables import as_row, from_row

TABLE = pa.table(
    {
        "query_id": ["a", "b", "c"],
        "number": pa.array([1, None, 3], pa.int32()),
        "passages": [["x", "y"], [], ["z"]],
    }
)


@pytest.mark.parametrize(
    "table", [TABLE, TABLE.slice(1, 2), pa.concat_tables([TABLE, TABLE.slice(2)]), TABLE.schema.empty_table()]
)
def test_a_table_comes_back_as_it_was(table: pa.Table):
    row = as_row(table)
    assert row.num_rows == 1
    assert from_row(row).equals(table.combine_chunks())


@pytest.mark.usefixtures("ray_cluster")
def test_ray_data_neither_cuts_nor_joins_them():
    """With rows of their own, two small ones would reach an actor as one."""
    tables = [TABLE.slice(0, size) for size in (1, 3, 2, 0, 3)]
    sizes = ray.data.from_arrow([as_row(each) for each in tables]).map_batches(
        lambda row: pa.table({"rows": [from_row(row).num_rows]}), batch_size=1, batch_format="pyarrow"
    )
    assert sorted(each["rows"] for each in sizes.take_all()) == [0, 1, 2, 3, 3]
