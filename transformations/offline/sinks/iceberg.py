"""Snapshots in Iceberg tables, one for each view and version, which Feast's DuckDB store joins.

The columns of a snapshot's rows, and two more: `as_of`, by which the table is partitioned, and
`as_of_row`, the place of a row in its snapshot. Rows are read in that order also after the table
was compacted, which puts them in any other.

A commit writes the staged rows, batch by batch, to one file below the table, and then lets Iceberg
replace those of the as-of time by that file in one commit. What the snapshots are is in properties
of the table that the same commit sets:

    activity-embeddings.as-of.20130701T000000Z    hash of the rows, hash of the facts, how many rows
    activity-embeddings.facts.<hash>              what a snapshot was computed with
    activity-embeddings.schema                    types of the columns: Iceberg's are fewer
    activity-embeddings.published.<store>         how far an online store has followed

The records of runs are rows of the table `runs` in the same namespace, one a run.

Iceberg commits optimistically. A commit that was beaten by another one is tried again if that one
left our snapshots as they were, as compaction does; otherwise it is refused, since what was
computed may be of what is there no more. Iceberg's own snapshots, and files that no table names
any more, are removed by Iceberg's own means, but for those that members to be forgotten are in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import RepoConfig
from feast.data_source import DataSource
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

from activity_embeddings.transformations.arrow import TIMESTAMP
from activity_embeddings.transformations.errors import AlreadyRunning, InvalidInput, NotReady
from activity_embeddings.transformations.extras import require_extra
from activity_embeddings.transformations.offline.iceberg import (
    catalog_of,
    located,
    sqlite_file,
    table_of,
)
from activity_embeddings.transformations.offline.sinks.base import (
    PARTITION,
    RUNS,
    SnapshotSink,
    Staging,
    lock_file,
    open_snapshot,
    parse_partition,
    partition_name,
    read_facts,
    table_name,
    view_of_table,
)
from activity_embeddings.transformations.offline.sinks.content import content_hash
from activity_embeddings.transformations.offline.sinks.iceberg_history import (
    drop_history,
    rows_of_history,
)

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table, Transaction

AS_OF = "as_of"
ROW = "as_of_row"
FOLDER = Path("data", "staging")
"""Where in a feature repo locks and staged snapshots lie."""
ROWS_AT_ONCE = 262_144
"""Rows that are read together where a snapshot is read in batches."""
ROUNDS = 10
"""How often a commit that others beat is tried again, where they left our snapshots alone."""

_PREFIX = "activity-embeddings."
_AS_OFS = f"{_PREFIX}as-of."
_FACTS = f"{_PREFIX}facts."
_PUBLISHED = f"{_PREFIX}published."
_SCHEMA = f"{_PREFIX}schema"

_SEEN: dict[tuple[str, ...], dict[int, Record]] = {}
"""What the runs of this process found in a table when they locked it, and what they committed."""


@dataclass(frozen=True)
class Record:
    """What a table says of one snapshot; `rows` as it was committed, some may be deleted since."""

    content: str
    facts: str
    rows: int

    def __str__(self) -> str:
        return f"{self.content} {self.facts} {self.rows}"

    def same(self, other: Record | None) -> bool:
        """Return whether another snapshot was committed with the same rows and facts."""
        return other is not None and (other.content, other.facts) == (self.content, self.facts)

    @classmethod
    def parse(cls, text: str) -> Record:
        """Invert `str`."""
        content, facts, rows = text.split()
        return cls(content, facts, int(rows))


def sink_of(source: DataSource, config: RepoConfig) -> SnapshotSink:
    """Return the table that an `IcebergSource` names.

    Raises
    ------
    InvalidInput
        Its name is not that of a view and a version, as `table_name` makes it.
    """
    assert isinstance(source, IcebergSource)
    require_extra("iceberg", source.name)
    if view_of_table(source.iceberg_table) is None:
        raise InvalidInput(
            f"{source.name}: the table should be called by view and version, as "
            f"{table_name('some_view', '1')}. Received: {source.iceberg_table}. "
            "`IcebergSnapshots` calls it so"
        )
    return IcebergSink.of(source, Path(config.repo_path or "."))


@dataclass(frozen=True)
class IcebergSink:
    """A `SnapshotSink` that is an Iceberg table.

    Parameters
    ----------
    key
        What tells the place from others.
    source
        Names the table; located.
    folder
        On this machine, for locks and what is staged.
    """

    key: tuple[str, ...]
    source: IcebergSource = field(compare=False, repr=False)
    folder: Path = field(compare=False)

    @classmethod
    def of(cls, source: IcebergSource, repo: Path) -> IcebergSink:
        """Return the sink of a source of a feature repo."""
        found = located(source, repo)
        uri = found.catalog_properties.get("uri") or found.endpoint
        catalog = (found.catalog_type, found.catalog_name, uri, found.warehouse)
        return cls((*catalog, found.namespace, found.iceberg_table), found, repo / FOLDER)

    @property
    def place(self) -> str:
        """The name of the table."""
        return f"Iceberg table {self._name}"

    @property
    def staging(self) -> Staging:
        """In the feature repo, on this machine."""
        return Staging(self.folder / self._file_name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See `SnapshotSink.locked`.

        A run of another machine is not kept out. What is committed while the body runs is refused
        if such a run has changed the snapshots since.
        """
        with lock_file(self.folder / f"{self._file_name}.lock", self.place):
            _SEEN[self.key] = _records(self._load())
            try:
                yield
            finally:
                del _SEEN[self.key]

    def committed(self) -> list[int]:
        """See `SnapshotSink.committed`."""
        return sorted(_records(self._load()))

    def facts(self, as_of: int) -> dict[str, Any]:
        """See `SnapshotSink.facts`."""
        table = self._required()
        return json.loads(table.properties[f"{_FACTS}{_records(table)[as_of].facts}"])

    def read(self, as_of: int, columns: Sequence[str] | None = None) -> pa.Table:
        """See `SnapshotSink.read`."""
        return _read(self._required(), _of(as_of), columns)

    def batches(self, as_of: int, size: int) -> Iterator[pa.RecordBatch]:
        """See `SnapshotSink.batches`."""
        table = self._required()
        for part in _parts(table, as_of, _records(table)[as_of].rows):
            yield from part.to_batches(max_chunksize=size)

    def count_rows(self, times: Collection[int]) -> int:
        """See `SnapshotReader.count_rows`."""
        from pyiceberg.expressions import In

        return self._required().scan(row_filter=In(AS_OF, list(times))).count() if times else 0

    def differs(self, as_of: int) -> bool:
        """See `SnapshotSink.differs`."""
        _, _, record = self._staged(as_of)
        return not record.same(_records(self._load()).get(as_of))

    def commit(self, as_of: int) -> bool:
        """See `SnapshotSink.commit`."""
        staged = self.staging.file(as_of)
        schema, facts, record = self._staged(as_of)
        table = self._load()
        self._require_unchanged(table)
        if record.same(_records(table).get(as_of)):
            staged.unlink()
            return False
        table = table or self._create(schema)
        self._require_schema(table, schema)
        path = _upload(table, staged, as_of) if record.rows else None

        def change(transaction: Transaction, table: Table) -> None:
            if _any_rows(table, _of(as_of)):
                transaction.delete(_of(as_of))
            if path is not None:
                transaction.add_files([path], check_duplicate_files=False)
            named = {_as_of_key(as_of): str(record), f"{_FACTS}{record.facts}": facts}
            transaction.set_properties(named | _lowered_marks(table, as_of))

        try:
            self._change(table, change)
        except AlreadyRunning:
            if path is not None:
                table.io.delete(path)
            raise
        staged.unlink()
        return True

    def _staged(self, as_of: int) -> tuple[pa.Schema, str, Record]:
        """Return what a staged snapshot is: its columns, facts and record."""
        staged = self.staging.file(as_of)
        facts = json.dumps(read_facts(staged), sort_keys=True)
        with open_snapshot(staged) as file:
            schema = file.schema_arrow.remove_metadata()
            record = Record(
                content_hash(schema, file.iter_batches()),
                hashlib.sha256(facts.encode()).hexdigest()[:16],
                file.metadata.num_rows,
            )
        return schema, facts, record

    def together(self) -> AbstractContextManager[None]:
        """See `SnapshotSink.together`; Iceberg commits one table after the other."""
        return nullcontext()

    def count_members(self, column: str, ids: pa.Array) -> int:
        """See `SnapshotSink.count_members`."""
        from pyiceberg.expressions import In

        table = self._load()
        if table is None or not _has_ids(table, column, ids):
            return 0
        theirs = In(column, ids.to_pylist())
        there = table.scan(row_filter=theirs, selected_fields=(AS_OF,)).to_arrow()
        return len(there) + rows_of_history(table, column, ids)

    def delete_members(self, column: str, ids: pa.Array) -> int:
        """See `SnapshotSink.delete_members`; in one commit."""
        from pyiceberg.expressions import In

        table = self._load()
        if table is None or not _has_ids(table, column, ids):
            return 0
        theirs = In(column, ids.to_pylist())
        there = table.scan(row_filter=theirs, selected_fields=(AS_OF,)).to_arrow()
        in_history = rows_of_history(table, column, ids)
        if not len(there):
            return in_history
        records = _records(table)
        moments = pc.unique(there.column(AS_OF)).cast(pa.int64()).to_pylist()
        left = {
            as_of: replace(
                records[as_of],
                content=content_hash(
                    _schema(table), _kept(table, as_of, records[as_of].rows, column, ids)
                ),
            )
            for as_of in moments
        }

        def change(transaction: Transaction, table: Table) -> None:
            transaction.delete(theirs)
            transaction.set_properties({_as_of_key(a): str(record) for a, record in left.items()})

        self._change(table, change)
        return len(there) + in_history

    def drop_history(self) -> None:
        """See `SnapshotSink.drop_history`: Iceberg's older snapshots of the table, and of records.

        A join that has begun on one of them fails, and finds the newest when it is tried again.
        """
        self.drop_history_of_table()
        _Runs.beside_sink(self).drop_history_of_table()

    def drop_history_of_table(self) -> None:
        """See `drop_history`, of this table alone."""
        table = self._load()
        if table is not None:
            drop_history(table, self.place)

    def expire(self, before: int) -> list[int]:
        """See `SnapshotSink.expire`; in one commit."""
        from pyiceberg.expressions import LessThan

        table = self._load()
        records = _records(table)
        expired = sorted(as_of for as_of in records if as_of < before)
        if table is None or not expired:
            return []

        kept = {record.facts for as_of, record in records.items() if as_of >= before}
        unused = {records[as_of].facts for as_of in expired} - kept
        forgotten = [*map(_as_of_key, expired), *(f"{_FACTS}{facts}" for facts in sorted(unused))]

        def change(transaction: Transaction, table: Table) -> None:
            if _any_rows(table, LessThan(AS_OF, before)):
                transaction.delete(LessThan(AS_OF, before))
            transaction.remove_properties(*forgotten)

        self._change(table, change)
        return expired

    def other_versions(self) -> Sequence[IcebergSink]:
        """See `SnapshotSink.other_versions`: tables of the view in the namespace."""
        view = view_of_table(self.source.iceberg_table)
        found = [self._of_table(name) for name in self._tables() if view_of_table(name) == view]
        return [sink for sink in found if sink != self]

    def beside(self) -> Sequence[IcebergSink]:
        """See `SnapshotSink.beside`: tables of the namespace that have snapshots."""
        named = [self._of_table(name) for name in self._tables() if view_of_table(name)]
        return [sink for sink in named if sink.committed()]

    def _tables(self) -> list[str]:
        """Return the names of the tables of the namespace."""
        from pyiceberg.exceptions import NoSuchNamespaceError

        catalog = self._catalog
        if catalog is None:
            del self.__dict__["_catalog"]  # It may be there the next time.
            return []
        try:
            return [name for *_, name in sorted(catalog.list_tables(self._namespace))]
        except NoSuchNamespaceError:
            return []

    def published(self, store: str) -> int | None:
        """See `SnapshotSink.published`."""
        table = self._load()
        mark = None if table is None else table.properties.get(f"{_PUBLISHED}{store}")
        return None if mark is None else int(mark)

    def mark_published(self, store: str, as_of: int) -> None:
        """See `SnapshotSink.mark_published`."""
        table = self._required()
        mark = {f"{_PUBLISHED}{store}": str(as_of)}
        if table.properties.items() >= mark.items():
            return
        self._change(table, lambda transaction, _: transaction.set_properties(mark))

    def forget_published(self) -> None:
        """See `SnapshotSink.forget_published`."""
        table = self._load()
        marks = [] if table is None else [k for k in table.properties if k.startswith(_PUBLISHED)]
        if table is not None and marks:
            self._change(table, lambda transaction, _: transaction.remove_properties(*marks))

    def records(self) -> dict[str, dict[str, Any]]:
        """See `SnapshotSink.records`."""
        return _Runs.beside_sink(self).all()

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """See `SnapshotSink.write_record`."""
        _Runs.beside_sink(self).put(name, record)

    @property
    def _namespace(self) -> str:
        return self.source.namespace

    @property
    def _name(self) -> str:
        return f"{self._namespace}.{self.source.iceberg_table}"

    @property
    def _file_name(self) -> str:
        """The table's name as one of this machine's files, other than those of other catalogs."""
        digest = hashlib.sha256(repr(self.key).encode()).hexdigest()[:8]
        return f"{quote(self._name, safe='')}-{digest}"

    @cached_property
    def _catalog(self) -> Catalog | None:
        return catalog_of(self.source)

    def _load(self) -> Table | None:
        """Return the table as it is now."""
        if self._catalog is None:
            del self.__dict__["_catalog"]  # It may be there the next time.
            return None
        return table_of(self.source, self._catalog)

    def _required(self) -> Table:
        table = self._load()
        if table is None:
            raise NotReady(
                f"{self.place}: expected published snapshots. Received: no such table; run "
                "`feast materialize` first"
            )
        return table

    def _of_table(self, name: str) -> IcebergSink:
        """Return the sink of another table of the namespace."""
        other = copy(self.source)
        other.iceberg_table = name
        return replace(self, key=(*self.key[:-1], name), source=other)

    def _create(self, schema: pa.Schema) -> Table:
        """Make the table, without rows, and the namespace."""
        columns = [*schema, pa.field(AS_OF, TIMESTAMP), pa.field(ROW, pa.int64())]
        return self._create_table(
            pa.schema(columns),
            [AS_OF, ROW],
            {_SCHEMA: base64.b64encode(schema.serialize()).decode()},
            partition=AS_OF,
        )

    def _create_table(
        self,
        schema: pa.Schema,
        found_by: Sequence[str],
        properties: Mapping[str, str],
        partition: str | None = None,
    ) -> Table:
        """Make the table, and the namespace; rows are found by statistics of some columns."""
        from pyiceberg.exceptions import TableAlreadyExistsError

        path = sqlite_file(self.source)
        if path is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        catalog = self._catalog
        if catalog is None:
            del self.__dict__["_catalog"]
            catalog = self._catalog
        assert catalog is not None
        catalog.create_namespace_if_not_exists(self._namespace)
        settings = {
            **properties,
            # Statistics of vectors help nobody, and ids are to be in the rows alone.
            "write.metadata.metrics.default": "none",
            **{f"write.metadata.metrics.column.{name}": "truncate(32)" for name in found_by},
            # One manifest a snapshot would have to be read by each join.
            "commit.manifest-merge.enabled": "true",
            "write.metadata.delete-after-commit.enabled": "true",
            "write.metadata.previous-versions-max": "20",
        }
        with suppress(TableAlreadyExistsError):
            transaction = catalog.create_table_transaction(self._name, schema, properties=settings)
            with transaction:
                if partition is not None:
                    with transaction.update_spec() as spec:
                        spec.add_identity(partition)
        return self._required()

    def _require_schema(self, table: Table, schema: pa.Schema) -> None:
        there = _schema(table)
        if there != schema:
            differ = [field for field in schema if field not in list(there)]
            raise InvalidInput(
                f"{self.place}: expected rows with the columns of the table, "
                f"{', '.join(f'{f.name}: {f.type}' for f in there)}. Received: others, such as "
                f"{', '.join(f'{f.name}: {f.type}' for f in differ) or 'fewer'}. Give what was "
                "changed a new version"
            )

    def _require_unchanged(self, table: Table | None) -> None:
        """Raise `AlreadyRunning` if another run changed the snapshots since this one has locked."""
        if self.key in _SEEN and _SEEN[self.key] != _records(table):
            raise self._beaten()

    def _beaten(self) -> AlreadyRunning:
        return AlreadyRunning(
            f"{self.place}: expected one run at a time. Received: snapshots that another run, "
            "perhaps of another machine, has changed since this one began; it has published "
            "nothing here. Run again"
        )

    def _change(self, table: Table, change: Callable[[Transaction, Table], object]) -> None:
        """Commit a change of a table that is as it was looked at; again after one of others.

        Raises
        ------
        AlreadyRunning
            Another run changed the snapshots meanwhile. Nothing was committed.
        """
        from pyiceberg.exceptions import CommitFailedException, ValidationException

        records = _records(table)
        for _ in range(ROUNDS):
            # Of this object alone: pyiceberg would put our change on top of any other one.
            table.metadata.properties["commit.retry.num-retries"] = "0"
            try:
                with table.transaction() as transaction:
                    change(transaction, table)
            except (CommitFailedException, ValidationException):
                table = self._required()
                if _records(table) != records:
                    raise self._beaten() from None
                continue
            if self.key in _SEEN:
                _SEEN[self.key] = _records(table)
            return
        raise self._beaten()


class _Runs(IcebergSink):
    """The table of the records of runs in a namespace."""

    @classmethod
    def beside_sink(cls, sink: IcebergSink) -> _Runs:
        """Return that of the namespace of a sink."""
        source = copy(sink.source)
        source.iceberg_table = RUNS
        return cls((*sink.key[:-1], RUNS), source, sink.folder)

    def all(self) -> dict[str, dict[str, Any]]:
        """Return the records by their names."""
        table = self._load()
        if table is None:
            return {}
        rows = table.scan().to_arrow().sort_by("run").to_pylist()
        return {row["run"]: json.loads(row["record"]) for row in rows}

    def put(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep a record, in place of one of that name."""
        from pyiceberg.expressions import EqualTo

        row = pa.table({"run": [name], "record": [json.dumps(record)]})
        of_run = EqualTo("run", name)

        def change(transaction: Transaction, table: Table) -> None:
            if _any_rows(table, of_run):
                transaction.delete(of_run)
            transaction.append(row)

        self._change(self._load() or self._create_table(row.schema, ["run"], {}), change)


def _as_of_key(as_of: int) -> str:
    return f"{_AS_OFS}{partition_name(as_of).removeprefix(PARTITION)}"


def _records(table: Table | None) -> dict[int, Record]:
    """Return what a table says of its snapshots, by as-of time."""
    properties = {} if table is None else table.properties
    return {
        parse_partition(name.removeprefix(_AS_OFS)): Record.parse(value)
        for name, value in properties.items()
        if name.startswith(_AS_OFS)
    }


def _lowered_marks(table: Table, as_of: int) -> dict[str, str]:
    """Return marks of online stores that have not followed up to a time whose rows change."""
    marks = {k: int(v) for k, v in table.properties.items() if k.startswith(_PUBLISHED)}
    return {key: str(as_of - 1) for key, mark in marks.items() if mark >= as_of}


def _schema(table: Table) -> pa.Schema:
    """Return the columns of snapshots, with the types that were written."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(table.properties[_SCHEMA])))


def _has_ids(table: Table, column: str, ids: pa.Array) -> bool:
    """Return whether snapshots have a column of such ids."""
    schema = _schema(table)
    return column in schema.names and schema.field(column).type == ids.type and len(ids) > 0


def _of(as_of: int) -> BooleanExpression:
    from pyiceberg.expressions import EqualTo

    return EqualTo(AS_OF, as_of)


def _any_rows(table: Table, rows: BooleanExpression) -> bool:
    """Return whether there are files with such rows; pyiceberg warns of deletes of none."""
    return any(True for _ in table.scan(row_filter=rows).plan_files())


def _read(table: Table, rows: BooleanExpression, columns: Sequence[str] | None = None) -> pa.Table:
    """Return rows of one snapshot in the order in which they were written."""
    schema = _schema(table)
    chosen = [name for name in schema.names if columns is None or name in columns]
    found = table.scan(row_filter=rows, selected_fields=(*chosen, ROW)).to_arrow()
    place = found.column(ROW).to_numpy()
    if (place[1:] < place[:-1]).any():
        found = found.sort_by(ROW)
    return found.select(chosen).cast(pa.schema([schema.field(name) for name in chosen]))


def _parts(table: Table, as_of: int, rows: int) -> Iterator[pa.Table]:
    """Yield a snapshot in parts, of which one is in memory."""
    from pyiceberg.expressions import And, GreaterThanOrEqual, LessThan

    for start in range(0, rows, ROWS_AT_ONCE):
        within = And(GreaterThanOrEqual(ROW, start), LessThan(ROW, start + ROWS_AT_ONCE))
        yield _read(table, And(_of(as_of), within))


def _kept(
    table: Table, as_of: int, rows: int, column: str, ids: pa.Array
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a snapshot that are not of some ids."""
    for part in _parts(table, as_of, rows):
        theirs = pc.is_in(part.column(column), value_set=ids)
        yield from part.filter(pc.invert(theirs)).to_batches()


def _upload(table: Table, staged: Path, as_of: int) -> str:
    """Write staged rows to a file of the table, batch by batch; return its path."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    target = schema_to_pyarrow(table.schema())
    flat = [field.name for field in target if not pa.types.is_nested(field.type)]
    name = f"{partition_name(as_of)}-{uuid.uuid4().hex}.parquet"
    path = table.location_provider().new_data_location(name)
    with (
        open_snapshot(staged) as file,
        table.io.new_output(path).create() as stream,
        pq.ParquetWriter(
            stream, target, compression="zstd", use_dictionary=flat, write_statistics=flat
        ) as writer,
    ):
        start = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            moments = pa.array(np.full(len(rows), as_of)).cast(TIMESTAMP)
            places = pa.array(np.arange(start, start + len(rows)))
            rows = rows.append_column(AS_OF, moments).append_column(ROW, places)
            writer.write_table(rows.cast(target))
            start += len(rows)
    return path
