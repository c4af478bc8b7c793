"""The tables, queries and files of sources in Spark: read as what they hold, or refused by name.

Feast's own store fetches rows through pandas, and gives moments in the zone of the session, without
saying so. So a `SparkSource` is read here, as Arrow: Spark filters by time and column, and streams
what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
from feast import RepoConfig
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType

from activity_embeddings.transformations.arrow import (
    TIMESTAMP,
    require_columns,
    require_zoned_time,
)
from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.offline.columns import RowsAsked
from activity_embeddings.transformations.offline.parquet_files import normalised, plain_rows
from activity_embeddings.transformations.offline.spark import (
    answering,
    inside,
    rows_of,
    session_for,
    stream,
)

_TYPES = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "date": pa.date32(),
    "timestamp": TIMESTAMP,
    "timestamp_ntz": pa.timestamp("us"),
}


@dataclass(frozen=True)
class SparkTable:
    """A `SourceRows` in Spark, as it is when it is first asked for.

    Every method raises `InvalidData` where it cannot be read.

    Parameters
    ----------
    source
        A table, a query or files.
    config
        Of the feature repo, whose offline store has the session.
    label
        What errors call the source.
    """

    source: SparkSource
    config: RepoConfig
    label: str

    @property
    def columns(self) -> dict[str, str]:
        """See `SourceRows.columns`."""
        return {field.name: field.dataType.simpleString() for field in self._frame.schema}

    def type_of(self, column: str) -> pa.DataType | None:
        """See `SourceRows.type_of`."""
        return self._types.get(column)

    def earliest(self) -> int | None:
        """See `SourceRows.earliest`."""
        first = F.min(F.col(self.source.timestamp_field))
        with answering(self.label):
            found = self._frame.agg(F.unix_micros(first.cast("timestamp"))).first()
        return None if found is None else found[0]

    def read(self, asked: RowsAsked) -> pa.Table:
        """See `SourceRows.read`.

        Raises
        ------
        InvalidData
            A column is missing or of a type that is not read, or a time is null or has no zone.
        """
        rows = self._chosen(asked)
        with answering(self.label):
            table = pa.Table.from_batches(stream(rows))
        called = asked.called(self.source.timestamp_field)
        return normalised(table, asked, called, self.label)

    def most_rows(self, start: int | None, end: int) -> int:
        """See `SourceRows.most_rows`: as many as there are."""
        require_columns(self.columns, [self.source.timestamp_field], self.label)
        with answering(self.label):
            return self._inside(start, end).count()

    def batches(self, asked: RowsAsked) -> Iterator[pa.Table]:
        """See `SourceRows.batches`."""
        return self._batches(asked)

    def in_order(self, asked: RowsAsked, member: str, at_once: int) -> Iterator[pa.Table]:
        """See `SourceRows.in_order`; Spark sorts, on disks of its own where it has to."""
        return self._batches(asked, by=member)

    def _batches(self, asked: RowsAsked, by: str | None = None) -> Iterator[pa.Table]:
        rows, called = self._chosen(asked), asked.called(self.source.timestamp_field)
        with answering(self.label):
            for batch in stream(rows, by=by):
                table = pa.Table.from_batches([batch])
                yield plain_rows(table, asked, called, self.label)

    def _chosen(self, asked: RowsAsked) -> DataFrame:
        """Return the columns of the rows of an interval, after checking them."""
        there, time = self.columns, self.source.timestamp_field
        wanted = asked.there(there, time)
        require_columns(there, wanted.values(), self.label)
        for column in wanted.values():
            if self._types[column] is None:
                raise InvalidData(
                    f"{self.label}: column {column!r} should be of a type that can be read. "
                    f"Received: {there[column]}"
                )
        require_zoned_time(self._types[time], time, self.label)
        named = [F.col(column).alias(name) for name, column in wanted.items()]
        with answering(self.label):
            return self._inside(asked.start, asked.end).select(named)

    def _inside(self, start: int | None, end: int) -> DataFrame:
        """Return the rows of an interval, and those without a time, which are refused later."""
        moment = F.col(self.source.timestamp_field)
        return self._frame.where(inside(moment, start, end) | moment.isNull())

    @cached_property
    def _types(self) -> dict[str, pa.DataType | None]:
        return {field.name: _arrow_type(field.dataType) for field in self._frame.schema}

    @cached_property
    def _frame(self) -> DataFrame:
        session = session_for(self.config, self.label)
        with answering(self.label):
            return rows_of(self.source, self.config, session)


def _arrow_type(kind: DataType) -> pa.DataType | None:
    if isinstance(kind, ArrayType):
        item = _arrow_type(kind.elementType)
        return None if item is None else pa.list_(item)
    return _TYPES.get(kind.simpleString())
