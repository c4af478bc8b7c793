"""Spark, by the session of Feast's offline store: sources as frames, and frames as Arrow.

A column of type `timestamp` holds moments, whatever the zone of the session, and they come as such:
no time is written as text in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from pathlib import Path

import pyarrow as pa
from feast import RepoConfig
from feast.infra.offline_stores.contrib.spark_offline_store.spark import SparkOfflineStoreConfig
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from activity_embeddings.transformations.errors import InvalidData, InvalidInput, first_line
from activity_embeddings.transformations.feast_compat.spark import frame_of, session_of

AT_ONCE = 200_000_000
"""Bytes of rows that are fetched from Spark together."""
_SAMPLE = 1_000


def session_for(config: RepoConfig, what: str) -> SparkSession:
    """Return the session of the offline store of a feature repo.

    Parameters
    ----------
    config
        Of the feature repo.
    what
        What needs it, for the message.

    Raises
    ------
    InvalidInput
        The offline store is not Spark, or Spark does not start.
    """
    settings = config.offline_store
    if not isinstance(settings, SparkOfflineStoreConfig):
        raise InvalidInput(
            f"{what}: expected an offline store of Spark in feature_store.yaml, whose session is "
            f"used. Received: {settings.type}"
        )
    try:
        return session_of(settings)
    except (PySparkException, Py4JJavaError) as error:
        raise InvalidInput(
            f"{what}: expected Spark, which needs Java, to start with `spark_conf` of "
            f"feature_store.yaml. Received: {_said(error)}"
        ) from error


def rows_of(source: SparkSource, config: RepoConfig, session: SparkSession) -> DataFrame:
    """Return the rows of a source; a relative path is one of the feature repo."""
    path = source.path
    if path and "://" not in path and not path.startswith("/"):
        source = copy(source)
        source.spark_options = copy(source.spark_options)
        source.spark_options.path = (Path(config.repo_path or ".").resolve() / path).as_uri()
    return frame_of(source, session)


def inside(time: Column, start: int | None, end: int) -> Column:
    """Return the condition `start <= time <= end`, microseconds since the epoch."""
    until = time <= F.timestamp_micros(F.lit(end))
    return until if start is None else until & (time >= F.timestamp_micros(F.lit(start)))


def stream(
    rows: DataFrame, at_once: int = AT_ONCE, by: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield a batch without rows, and then the rows of a frame in parts.

    Of a frame that is fetched at once, the driver's Java holds every row, and refuses those past
    `spark.driver.maxResultSize`. Spark keeps the rows meanwhile, on disk where memory is short, so
    that the parts are those of one answer.

    Parameters
    ----------
    rows
        With a name for every column.
    at_once
        About how many bytes a part has.
    by
        Column by which the rows ascend, text by its bytes in UTF-8, nulls first. None: they come in
        any order.
    """
    with ExitStack() as kept:
        rows = rows.persist()
        kept.callback(rows.unpersist)
        sample = rows.limit(_SAMPLE).toArrow()
        yield pa.RecordBatch.from_pylist([], sample.schema)
        size = rows.count() * (sample.nbytes / max(1, len(sample)))
        parts = max(1, math.ceil(size / at_once))
        part = F.pmod(F.xxhash64(*rows.columns), F.lit(parts))
        if by is not None:
            rows = rows.repartitionByRange(parts, by).sortWithinPartitions(by).persist()
            kept.callback(rows.unpersist)
            part = F.spark_partition_id()
        for number in range(parts):
            yield from rows.where(part == number).toArrow().to_batches()


@contextmanager
def answering(label: str) -> Iterator[None]:
    """Say which source it is that Spark cannot read."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        raise InvalidData(
            f"{label}: expected a readable source. Received: {_said(error)}"
        ) from error


def _said(error: Exception) -> str:
    """Return what Spark says, not how it was called."""
    if isinstance(error, Py4JJavaError):
        cause = error.java_exception
        while cause.getCause() is not None:
            cause = cause.getCause()
        return str(cause.getMessage()).partition("\n")[0]
    return first_line(error)
