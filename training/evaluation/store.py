"""The feature store of an evaluation: every arm's values as the daily run would publish them.

A Feast repository of its own, in the evaluation's folder: the same definitions, the same compute
engine with the settings of the user's repository, every compared model beside the others. Values
come out by `get_historical_features` through a feature service for each model, with
`filter_by_created_timestamp`, so that a query gets what was published before it, publishing delay
included. The user's own registry and stores are only read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from datetime import timedelta
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Array, Float32, Float64, Int64, String
from feast.value_type import ValueType

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.kinds import ids_without_kind, is_of_kind
from activity_embeddings.transformations.arrow import TIMESTAMP, vector_chunks
from activity_embeddings.transformations.artifacts import FILE_URL
from activity_embeddings.transformations.contract.activity_model import ActivityModel
from activity_embeddings.transformations.definitions.tags import event_tags, vector_tags
from activity_embeddings.transformations.definitions.views import embedding_views, sequence_view
from activity_embeddings.transformations.files import empty_folder
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec
from activity_embeddings.transformations.times import Schedule, to_datetime


@dataclass(frozen=True)
class Table:
    """A feature view of a plain table: values of members or of items, dated.

    Parameters
    ----------
    name
        Name of the view.
    entity
        "member" or "item".
    ids
        Ids of the rows, int64 or string.
    time
        int64 [n]; since when each row holds, microseconds since the epoch.
    columns
        float [n] or [n, d] by name of the feature.
    """

    name: str
    entity: str
    ids: pa.Array
    time: np.ndarray
    columns: Mapping[str, np.ndarray]


class EvaluationStore:
    """A Feast repository in a folder of its own; see the module.

    Parameters
    ----------
    folder
        Is emptied first.
    history
        Events and item vectors.
    vector_spec
        Which vectors these are.
    schedule
        Schedule of the daily run.
    models
        SavedModels by name of the view that publishes them.
    tables
        Other feature views. Each view and each model has a feature service of its name.
    """

    def __init__(
        self,
        folder: Path,
        history: ActivityHistory,
        *,
        vector_spec: ItemVectorSpec,
        schedule: Schedule,
        models: Mapping[str, Path],
        tables: Sequence[Table] = (),
    ) -> None:
        self._history, self._models = history, dict(models)
        self.schedule = schedule
        self._folder = empty_folder(folder)
        (self._folder / "data").mkdir()
        self.store = FeatureStore(config=self._config())
        member = _entity("member", names.MEMBER_ID, history.events.member_ids)
        kinds = _kinds_of(history)
        items = [_entity(k.names.item, k.names.item_id, k.item_ids) for k in kinds]
        entities = {"member": member, "item": items[0]}
        events = [self._events(kind, member) for kind in kinds]
        vectors = [
            self._vectors(kind, item, vector_spec) for kind, item in zip(kinds, items, strict=True)
        ]
        snapshots = self._folder / "snapshots"
        sequence = sequence_view(
            events=events,
            vectors=vectors,
            member=member,
            item=items[0],
            keep={kind.name: kind.keep for kind in history.spec.kinds if kind.keep},
            snapshots=snapshots,
            repo=self._folder,
        )
        self.embeddings = {
            view.tags["model"]: view
            for view in embedding_views(
                [
                    ActivityModel(f"{FILE_URL}{path.resolve()}", name=name)
                    for name, path in models.items()
                ],
                sequence=sequence,
                vectors=vectors,
                member=member,
                snapshots=snapshots,
                repo=self._folder,
            ).values()
        }
        self._published = [sequence, *self.embeddings.values()]
        for view in self._published:
            view.online = False  # nobody serves from here
        views = {table.name: self._view(table, entities[table.entity]) for table in tables}
        with _quiet():
            activity = sequence[[names.ACTIVITY_COUNT, names.LAST_ACTIVITY_AT]]
            services = [FeatureService(name=view.name, features=[view]) for view in views.values()]
            services += [
                FeatureService(name=name, features=[activity, view[self.outputs(name)]])
                for name, view in self.embeddings.items()
            ]
            self.store.apply(
                [member, *items, *events, *vectors, *self._published, *views.values(), *services]
            )

    def publish(self, start: int, end: int) -> None:
        """Publish the values of every cut-off from `start` to `end`, as a backfill does."""
        first = self.schedule.newest(np.array([start]))[0] - 1
        with _quiet():
            self.store.materialize(
                to_datetime(int(first)),
                to_datetime(end),
                feature_views=[view.name for view in self._published],
            )

    def join(self, service: str, ids: pa.Array, time: np.ndarray) -> dict[str, np.ndarray]:
        """Return the features of a service as of each row's own time, as they were published.

        Parameters
        ----------
        service
            Its name.
        ids
            N members, or items for a service of items.
        time
            int64 [n]; microseconds since the epoch.

        Returns
        -------
        dict[str, np.ndarray]
            dict of feature name to float32 [n] or [n, d]; zeros where there is no value. The time
            `last_activity_at` is int64 microseconds, 0 for none.
        """
        definition = self.store.get_feature_service(service)
        view = self.store.get_feature_view(definition.feature_view_projections[0].name)
        key = view.join_keys[0]
        asked = pd.DataFrame(
            {
                key: ids.to_pandas(),
                names.EVENT_TIMESTAMP: pd.to_datetime(time, unit="us", utc=True),
            }
        )
        with _quiet():
            job = self.store.get_historical_features(
                asked, definition, filter_by_created_timestamp=True
            )
            joined = job.to_arrow()
        return {
            name: _dense(joined.column(name).combine_chunks())
            for name in joined.column_names
            if name not in (key, names.EVENT_TIMESTAMP)
        }

    def join_each(
        self, service: str, asked: Sequence[tuple[pa.Array, np.ndarray]]
    ) -> list[dict[str, np.ndarray]]:
        """Return what `join` does of each (ids, time), by one join: most of one is its planning."""
        joined = self.join(
            service,
            pa.concat_arrays([ids for ids, _ in asked]),
            np.concatenate([time for _, time in asked]),
        )
        ends = np.cumsum([len(time) for _, time in asked])[:-1]
        parts = {name: np.split(values, ends) for name, values in joined.items()}
        return [{name: part[i] for name, part in parts.items()} for i in range(len(asked))]

    def model_path(self, model: str) -> Path:
        """Return the folder of the SavedModel that is published under a name."""
        return self._models[model]

    def outputs(self, model: str) -> list[str]:
        """Return the outputs of a model: the features of its view."""
        features = self.embeddings[model].features
        return [feature.name for feature in features if feature.name != names.MODEL_VERSION]

    def bytes_on_disk(self, model: str) -> float:
        """Return the bytes that a member takes in the snapshots of a model."""
        folder = self._folder / "snapshots" / self.embeddings[model].name
        files = list(folder.rglob("*.parquet"))
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        return sum(file.stat().st_size for file in files) / max(rows, 1)

    def _config(self) -> RepoConfig:
        data = self._folder / "data"
        return RepoConfig(
            project="evaluation",
            provider="local",
            registry=str(data / "registry.db"),
            repo_path=self._folder,
            entity_key_serialization_version=3,
            online_store={
                "type": "activity_embeddings.ThreadedSqliteOnlineStore",
                "path": str(data / "online.db"),
            },
            offline_store={"type": "activity_embeddings.OrderedDuckDBOfflineStore"},
            batch_engine={
                "type": "activity_embeddings.ActivityComputeEngine",
                "snapshot_interval_hours": self.schedule.interval_hours,
                "publishing_delay_minutes": self.schedule.delay_minutes,
            },
        )

    def _events(self, kind: _Kind, member: Entity) -> FeatureView:
        events, spec = self._history.events, self._history.spec
        chosen, domain = pa.array(kind.events), kind.names
        table = pa.table(
            {
                domain.member_id: events.member_ids.take(pa.array(events.member[kind.events])),
                domain.item_id: kind.item_ids.take(pa.array(kind.place[events.item[kind.events]])),
                domain.action: pa.array(spec.vocabulary).take(pa.array(events.action).take(chosen)),
                # Their order is known: events of one time keep it.
                domain.event_id: chosen,
                names.EVENT_TIMESTAMP: pa.array(events.time).cast(TIMESTAMP).take(chosen),
            }
        )
        sessions = []
        if events.session is not None and events.session_ids is not None and domain.session_id:
            codes = events.session[kind.events]
            ids = events.session_ids.take(pa.array(codes, mask=codes < 0))
            table = table.append_column(domain.session_id, ids)
            sessions = [Field(name=domain.session_id, dtype=String)]
        return FeatureView(
            name=domain.events_view,
            entities=[member],
            source=self._write(domain.events_view, table),
            schema=[
                _id_field(domain.member_id, table),
                _id_field(domain.item_id, table),
                Field(name=domain.action, dtype=String),
                Field(name=domain.event_id, dtype=Int64),
                *sessions,
            ],
            ttl=spec.window,
            online=False,
            tags=event_tags(kind.spec, domain),
        )

    def _vectors(self, kind: _Kind, item: Entity, vector_spec: ItemVectorSpec) -> FeatureView:
        vectors, domain = self._history.vectors, kind.names
        of_row = kind.place[np.repeat(np.arange(len(vectors.item_ids)), np.diff(vectors.start))]
        row = np.flatnonzero(of_row >= 0)
        table = pa.table(
            {
                domain.item_id: kind.item_ids.take(pa.array(of_row[row])),
                names.EMBEDDING: _lists(vectors.matrix[row]),
                names.EVENT_TIMESTAMP: pa.array(vectors.time[row]).cast(TIMESTAMP),
            }
        )
        return FeatureView(
            name=domain.vectors_view,
            entities=[item],
            source=self._write(domain.vectors_view, table),
            schema=[
                _id_field(domain.item_id, table),
                Field(name=names.EMBEDDING, dtype=Array(Float32)),
            ],
            ttl=timedelta(0),
            online=False,
            tags=vector_tags(vector_spec),
        )

    def _view(self, table: Table, entity: Entity) -> FeatureView:
        (key,) = [entity.join_key]
        written = {
            key: table.ids,
            **{name: _column(values) for name, values in table.columns.items()},
            names.EVENT_TIMESTAMP: pa.array(table.time).cast(TIMESTAMP),
            names.CREATED_TIMESTAMP: pa.array(table.time + self.schedule.delay_us).cast(TIMESTAMP),
        }
        return FeatureView(
            name=table.name,
            entities=[entity],
            source=self._write(table.name, pa.table(written), names.CREATED_TIMESTAMP),
            schema=[
                _id_field(key, pa.table({key: table.ids})),
                *(
                    Field(name=name, dtype=Float64 if values.ndim == 1 else Array(Float32))
                    for name, values in table.columns.items()
                ),
            ],
            ttl=timedelta(0),
            online=False,
        )

    def _write(self, name: str, table: pa.Table, created: str = "") -> FileSource:
        file = f"data/{name}.parquet"
        pq.write_table(table, self._folder / file)
        return FileSource(
            name=f"{name}_source",
            path=file,
            timestamp_field=names.EVENT_TIMESTAMP,
            created_timestamp_column=created,
        )


@dataclass(frozen=True, eq=False)
class _Kind:
    """One kind of activity of a history, as a source of its own.

    Attributes
    ----------
    names, spec
        Of its events.
    item_ids
        The ids of its items, as their own source has them.
    place
        int64 [J]; positions of the history's items in `item_ids`, -1 for those of other kinds.
    events
        int64; positions of its events.
    """

    names: DomainNames
    spec: ActivitySpec
    item_ids: pa.Array
    place: np.ndarray
    events: np.ndarray


def _kinds_of(history: ActivityHistory) -> list[_Kind]:
    """Return the kinds of activity of a history, the own first."""
    spec, item_ids, events = history.spec, history.vectors.item_ids, history.events
    session_id = None if events.session is None else "session_id"
    if not spec.kinds:
        every = np.arange(len(item_ids)), np.arange(len(events))
        return [_Kind(DomainNames(session_id=session_id), spec, item_ids, *every)]
    kinds = []
    for kind in spec.kinds:
        own = kind is spec.kinds[0]
        domain = DomainNames(
            item=kind.name,
            item_id=names.ITEM_ID if own else f"{kind.name}_id",
            session_id=session_id,
        )
        items = np.flatnonzero(is_of_kind(item_ids, kind.name))
        place = np.full(len(item_ids), -1)
        place[items] = np.arange(len(items))
        positive = spec.positive_actions if own else ()
        of_kind = replace(spec, actions=kind.actions, positive_actions=positive, kinds=())
        ids = ids_without_kind(item_ids.take(pa.array(items)), kind.name)
        kinds.append(_Kind(domain, of_kind, ids, place, np.flatnonzero(place[events.item] >= 0)))
    return kinds


def _entity(name: str, key: str, ids: pa.Array) -> Entity:
    return Entity(name=name, join_keys=[key], value_type=_value_type(ids))


def _column(values: np.ndarray) -> pa.Array | pa.ChunkedArray:
    return _lists(values) if values.ndim == 2 else pa.array(values.astype(np.float64))


def _lists(rows: np.ndarray) -> pa.ChunkedArray:
    """Return a matrix as list<float>."""
    return vector_chunks(np.ascontiguousarray(rows, np.float32))


def _dense(values: pa.Array) -> np.ndarray:
    """Return a joined column as numbers, zeros for nulls."""
    if pa.types.is_timestamp(values.type):
        in_us = values.cast(pa.timestamp("us", values.type.tz)).view(pa.int64())
        return in_us.fill_null(0).to_numpy(zero_copy_only=False)
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        return values.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
    lengths = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    dense = np.zeros((len(values), int(lengths.max(initial=0))), np.float32)
    flat = values.flatten().to_numpy(zero_copy_only=False)
    dense[lengths > 0] = flat.reshape(-1, dense.shape[1]) if len(flat) else 0
    return dense


def _id_field(name: str, table: pa.Table) -> Field:
    is_int = pa.types.is_integer(table.column(name).type)
    return Field(name=name, dtype=Int64 if is_int else String)


def _value_type(ids: pa.Array) -> ValueType:
    return ValueType.INT64 if pa.types.is_integer(ids.type) else ValueType.STRING


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what Feast, its DuckDB store and the engine say about this store."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        yield
