"""Items are called by a column of text in their source, the newest as of a time."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, Field, FileSource, RepoConfig
from feast.types import Array, Int64, String
from feast.value_type import ValueType

from activity_embeddings import ItemVectorSpec, posting_view, vector_view
from activity_embeddings.transformations.offline.duckdb import OrderedDuckDBOfflineStore
from activity_embeddings.transformations.offline.item_names import read_item_names
from support.feast_repo import at, us

COURSE = Entity(name="course", join_keys=["course_id"], value_type=ValueType.STRING)
ROWS = {
    "course_id": ["b", "a", "a", "c", "d"],
    "since": pa.array([at(0), at(2), at(1), at(1), at(1)], pa.timestamp("us", "UTC")),
    "called": ["Bees", "Art, revised", "Art", None, " "],
    "year": [1, 2, 3, 4, 5],
    "embedding": [[1.0]] * 5,
}


def names(folder, view, end):
    config = RepoConfig(project="p", registry="r", provider="local", repo_path=folder)
    return read_item_names(config, OrderedDuckDBOfflineStore, view, end=us(end))


def source(folder, **mapping):
    pq.write_table(pa.table(ROWS), folder / "courses.parquet")
    return FileSource(
        name="courses",
        path="courses.parquet",
        timestamp_field="since",
        field_mapping=mapping,
    )


@pytest.mark.parametrize("mapping", [{"called": "title"}, {"called": "name"}, {}])
def test_the_newest_name_as_of_a_time_counts(tmp_path, mapping):
    """Under a name that says it, or as the first text that the view of postings declares."""
    (name,) = mapping.values() or ["called"]
    fields = [Field(name="year", dtype=Int64), Field(name=name, dtype=String)]
    tags = Field(name="tags", dtype=Array(String))
    view = posting_view(source(tmp_path, **mapping), item=COURSE, schema=[*fields, tags])
    assert names(tmp_path, view, at(1)) == {"a": "Art", "b": "Bees"}
    assert names(tmp_path, view, at(2)) == {"a": "Art, revised", "b": "Bees"}
    assert names(tmp_path, view, at(0) - timedelta(days=1)) == {}


def test_a_source_of_vectors_may_have_names_too(tmp_path):
    spec = ItemVectorSpec("own", "1", 1)
    view = vector_view(source(tmp_path, called="text"), item=COURSE, vectors=spec, table=None)
    assert names(tmp_path, view, at(1)) == {"a": "Art", "b": "Bees"}
    view = vector_view(source(tmp_path), item=COURSE, vectors=spec, table=None)
    assert names(tmp_path, view, at(1)) == {}
