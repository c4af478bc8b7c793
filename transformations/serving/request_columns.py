"""The columns of an online request: what its views take, and whether the values can be that.

Feast turns values into its own types before any function of ours runs, and fails on most that do
not fit with an error of its own, or takes them for others: null for item 0, true for member 1. So
columns of ours are looked at here, exactly, and those of others as far as Feast surely fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feast import FeatureStore, OnDemandFeatureView
from feast.types import Array, String
from feast.value_type import ValueType

from activity_embeddings.transformations import names
from activity_embeddings.transformations.definitions.tags import spec_of
from activity_embeddings.transformations.errors import quote, received
from activity_embeddings.transformations.feast_compat.requests import OnlineContext
from activity_embeddings.transformations.feast_compat.values import python_values_to_proto_values
from activity_embeddings.transformations.names import DomainNames, Role, Tag
from activity_embeddings.transformations.serving.request import (
    InvalidRequest,
    RequestParser,
    RequestReport,
    id_problem,
)
from activity_embeddings.transformations.times import parse_time, to_datetime

NOBODY = "A request should name at least one entity, as a member. Received: none"
OUR_KEYS = (ValueType.INT64, ValueType.STRING)

Columns = dict[str, list[Any]]
"""Values of a request by column, one a row."""


@dataclass(frozen=True)
class RequestColumns:
    """What the views of a request take.

    Attributes
    ----------
    keys
        The join keys of each view that is read, by its name.
    our_keys
        Whether ids are strings, by join key of a view of ours.
    key_of_entity
        Join keys by the name of their entity.
    types
        Types of join keys.
    request
        Names of all request columns.
    join_keys
        Names of all join keys in the registry, of which a request may have more than these.
    parsers
        Read the request columns of our request-time views, one for each domain.
    """

    keys: Mapping[str, Sequence[str]]
    our_keys: Mapping[str, bool]
    key_of_entity: Mapping[str, str]
    types: Mapping[str, ValueType]
    request: frozenset[str]
    join_keys: frozenset[str]
    parsers: tuple[RequestParser, ...]

    @classmethod
    def of(cls, context: OnlineContext, store: FeatureStore) -> RequestColumns:
        """Return what the views that Feast looked up take.

        Raises
        ------
        InvalidRequest
            A view is kept in the offline store alone.
        """
        our_keys: dict[str, bool] = {}
        for view, _ in context.views:
            if not getattr(view, "online", True):
                raise InvalidRequest(
                    f"{view.name} is kept in the offline store alone. Expected: views that are "
                    "served online"
                )
            if Tag.ROLE in view.tags:
                for key in context.keys_of(view):
                    if context.key_types.get(key) in OUR_KEYS:
                        our_keys[key] = context.key_types[key] == ValueType.STRING
        ours = [v for v in context.on_demand_views if v.tags.get(Tag.ROLE) == Role.REALTIME]
        return cls(
            keys={view.name: context.keys_of(view) for view, _ in context.views},
            our_keys=our_keys,
            key_of_entity=context.key_of_entity,
            types=context.key_types,
            request=frozenset(context.request_columns),
            join_keys=frozenset(context.join_keys),
            parsers=_parsers_of(ours, store),
        )

    def check(self, columns: Columns) -> Columns:
        """Return the columns of a request as Feast takes them.

        Columns that no view takes are left out, as Feast does. Empty lists become null, and times
        of several types ISO strings: Feast infers the type of a column from one of its values.

        Raises
        ------
        InvalidRequest
            They cannot be understood.
        """
        rows = _count_rows(columns)
        taken = {
            name: values
            for name, values in columns.items()
            if name in self.request or self._key(name) is not None
        }
        self._require_columns(taken, columns)
        for name, values in taken.items():
            key = self._key(name)
            if key is not None and key in self.our_keys:
                _check_ids(name, values, string=self.our_keys[key])
            elif not any(name in parser.columns for parser in self.parsers):
                needed = any(key in keys for keys in self.keys.values())
                _try_conversion(name, values, self.types.get(name, ValueType.UNKNOWN), needed)
        for parser in self.parsers:
            report = RequestReport()
            for row in range(rows):
                parser.recent(taken, row, report)
                parser.moment(taken, row)
            taken.update(_normal(taken, parser))
        return taken

    def _key(self, name: str) -> str | None:
        """Return the join key that Feast takes a column for, None where it is no key."""
        if name in self.request:
            return None
        return name if name in self.join_keys else self.key_of_entity.get(name)

    def _require_columns(self, taken: Columns, columns: Columns) -> None:
        """Raise `InvalidRequest` unless each view has its join keys and request columns, once."""
        named = [key for name in taken if (key := self._key(name)) is not None]
        if len(set(named)) < len(named):
            twice = next(key for key in named if named.count(key) > 1)
            raise InvalidRequest(
                f"entities: expected {twice} once. Received: also under the name of its entity"
            )
        for view, keys in self.keys.items():
            # Of several keys Feast takes what there is.
            if keys and not set(keys) & set(named):
                raise InvalidRequest(
                    f"entities: expected the column {', '.join(keys)}, a join key of {view}. "
                    f"Received: {_listed(columns)}"
                )
        missing = sorted(self.request - set(taken))
        if missing:
            hint = "".join(f". {_hint(parser)}" for parser in self.parsers)
            raise InvalidRequest(
                f"entities: expected the columns {', '.join(missing)}. "
                f"Received: {_listed(columns)}{hint}"
            )


def _hint(parser: RequestParser) -> str:
    *recent, moment = parser.columns
    spec = ", with `spec` of the domain," if len(parser.kinds) > 1 else ""
    return (
        f"{', '.join(recent)} and {moment} should be in every "
        "row, as null where there is nothing. In Python, activity_embeddings.entity_rows"
        f"{spec} makes such rows"
    )


def _parsers_of(
    views: Sequence[OnDemandFeatureView], store: FeatureStore
) -> tuple[RequestParser, ...]:
    """Return what reads the request columns of request-time views of ours, once a domain."""
    found = {view.tags[Tag.DOMAIN]: view for view in views}
    return tuple(_parser_of(view, store) for view in found.values())


def _parser_of(view: OnDemandFeatureView, store: FeatureStore) -> RequestParser:
    (sequence,) = view.source_feature_view_projections.values()
    spec = spec_of(store.registry.get_feature_view(sequence.name, store.project, allow_cache=True))
    schema, strings = view.get_request_data_schema(), Array(String).to_value_type()
    domain = DomainNames.of(view.tags)
    kinds = [DomainNames(item=kind.name) for kind in spec.kinds] or [domain]
    event_ids, session_ids = domain.recent_event_ids, domain.recent_session_ids
    return RequestParser(
        spec,
        string_ids={kind.item: schema[kind.recent_item_ids] == strings for kind in kinds},
        string_event_ids=schema[event_ids] == strings if event_ids in schema else None,
        string_session_ids=schema[session_ids] == strings if session_ids in schema else None,
        domain=domain,
    )


def _count_rows(columns: Columns) -> int:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        sizes = ", ".join(f"{quote(name)} {len(values)}" for name, values in columns.items())
        raise InvalidRequest(
            "entities: the columns should be lists of equal length, with one value for each row. "
            f"Received lengths: {sizes}"
        )
    rows = lengths.pop() if lengths else 0
    if not rows:
        raise InvalidRequest(f"entities: {NOBODY}")
    return rows


def _listed(columns: Columns) -> str:
    return ", ".join(map(quote, columns)) or "none"


def _check_ids(name: str, values: list[Any], *, string: bool) -> None:
    for value in values:
        problem = id_problem(value, string=string)
        if problem is None and value == "":
            # Feast takes a column of empty strings for one without values.
            problem = "should not be empty strings. Received: ''"
        if problem is not None:
            raise InvalidRequest(f"entities: {quote(name)} {problem}")


def _try_conversion(name: str, values: list[Any], kind: ValueType, needed: bool) -> None:
    """Raise `InvalidRequest` where Feast cannot turn a column into its own values.

    Of a join key that a view needs it cannot use null.
    """
    try:
        converted = python_values_to_proto_values(values, kind)
        unset = needed and any(value.WhichOneof("val") is None for value in converted)
    except Exception as error:
        # Whatever Feast raises here it would raise when it answers.
        expected = kind.name if kind != ValueType.UNKNOWN else "of one type that can be told"
        raise InvalidRequest(
            f"entities: {quote(name)} should be {expected}. Received: {received(values)}"
        ) from error
    if unset:
        raise InvalidRequest(
            f"entities: {quote(name)} should be a value in every row, of type {kind.name}. "
            f"Received: {received(values)}"
        )


def _normal(columns: Columns, parser: RequestParser) -> Columns:
    """Return the columns of recent activity with null for empty lists, and times of one type."""
    changed: Columns = {}
    for kind in parser.kinds:
        changed |= {name: [value or None for value in columns[name]] for name in kind}
        _, _, timestamps, *_ = kind
        times = changed[timestamps]
        if len({type(time) for listed in times for time in listed or ()}) > 1:
            changed[timestamps] = [
                listed and [_as_text(time) for time in listed] for listed in times
            ]
    asked = columns[names.REQUEST_TIMESTAMP]
    if len({type(time) for time in asked if time is not None}) > 1:
        changed[names.REQUEST_TIMESTAMP] = [
            None if time is None else _as_text(time) for time in asked
        ]
    return changed


def _as_text(time: Any) -> str:
    return to_datetime(parse_time(time, names.REQUEST_TIMESTAMP)).isoformat()
