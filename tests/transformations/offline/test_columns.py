"""Columns are found under the names of the source or under ours, and never mixed up."""

import pyarrow as pa
import pytest

from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.offline.columns import under_our_names

CALLED = {"member_id": "user", "job_id": "posting", "event_timestamp": "when", "event_id": "id"}


def table(*columns):
    return pa.table({name: [name] for name in columns})


def found(*columns, called=CALLED):
    renamed = under_our_names(table(*columns), called, "file", optional=["event_id"])
    return {
        name: values[0].as_py() for name, values in zip(renamed.column_names, renamed, strict=True)
    }


def test_all_names_of_the_source_win_over_columns_called_like_ours():
    assert found("user", "posting", "when", "id", "event_timestamp", "page") == {
        "member_id": "user", "job_id": "posting", "event_timestamp": "when", "event_id": "id",
    }  # fmt: skip


def test_ours_are_taken_where_those_of_the_source_are_not_all_there():
    assert found("member_id", "job_id", "event_timestamp", "when") == {
        name: name for name in ("member_id", "job_id", "event_timestamp")
    }
    assert found("member_id", "posting", "event_timestamp", "id") == {
        "member_id": "member_id", "job_id": "posting", "event_timestamp": "event_timestamp",
        "event_id": "id",
    }  # fmt: skip


def test_names_may_be_exchanged():
    called = {"member_id": "job_id", "job_id": "member_id"}
    assert found("job_id", "member_id", called=called) == called


def test_a_missing_column_is_named_as_the_source_names_it():
    with pytest.raises(InvalidData, match="file: column 'when' is missing"):
        found("user", "posting")
    with pytest.raises(InvalidData, match="columns 'user', 'when' are missing"):
        found("posting")
