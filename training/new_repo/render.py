"""The files of a feature repo that depend on whose it is, as text.

The feature repo of this project is what these functions give for the sample data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta

from activity_embeddings.training.new_repo.settings import (
    PostingSource,
    RepoSettings,
    VectorSource,
)
from activity_embeddings.transformations import names

OWNER = "recommendations@example.com"
_VALUE_TYPES = {"int": "INT64", "string": "STRING"}
_FEAST_TYPES = {"int": "Int64", "string": "String"}


def entities_py(settings: RepoSettings) -> str:
    """Return entities.py."""
    domain = settings.names
    return f'''\
"""Who acts, and on what. `value_type` says whether ids are INT64 or STRING in your data."""

from feast import Entity
from feast.value_type import ValueType

member = Entity(
    name={_text(settings.member)},
    join_keys=[{_text(domain.member_id)}],
    value_type=ValueType.{_VALUE_TYPES[settings.member_type]},
    description="Who acts.",
)

# Views and features are named after this entity: {domain.vectors_view}, {domain.activity_item_ids}.
item = Entity(
    name={_text(domain.item)},
    join_keys=[{_text(domain.item_id)}],
    value_type=ValueType.{_VALUE_TYPES[settings.item_type]},
    description="What members act on.",
)
'''


def sources_py(settings: RepoSettings) -> str:
    """Return sources.py."""
    domain, spec, events = settings.names, settings.spec, settings.events
    event_id, feast_imports, type_import = "", "FileSource", ""
    member = _text(domain.member_id)
    if events.event_id_type is not None:
        kind = _FEAST_TYPES[events.event_id_type]
        event_id = f"    event_id=Field(name={_text(domain.event_id)}, dtype={kind}),\n"
        feast_imports = "Field, FileSource"
        type_import = f"from feast.types import {kind}\n"
    ignore = '    other_actions="ignore",\n' if spec.ignores_other_actions else ""
    tags = f'    tags={{"{names.Tag.SIMULATED}": "true"}},\n' if settings.simulated else ""
    pushed = "rewrites this file" if events.single_file else "adds a file to this folder"
    return f'''\
"""Where activity events come from, and what counts as recent.

A column is mapped the Feast way where the source calls it otherwise than the entities do:
`field_mapping={{"user": {member}}}` on the source. A column that orders events of one time is
declared with `event_id=Field(name="event_id", dtype=Int64)` of `activity_view`; requests and pushed
events then have it too.
"""

from datetime import timedelta
from pathlib import Path

from entities import item, member
from feast import {feast_imports}
from feast.data_format import ParquetFormat
{type_import}
from activity_embeddings import ActivitySpec, activity_view

REPO = Path(__file__).parent
OWNER = "{OWNER}"

SPEC = ActivitySpec(
    window={_timedelta(spec.window)},
    length={spec.length},
    actions={_tuple(spec.actions)},
    positive_actions={_tuple(spec.positive_actions)},
{ignore})

activity_events = FileSource(
    name="{domain.item}_activity_events",
    path={_path(events.path, "activity_events")},
    file_format=ParquetFormat(),
    timestamp_field={_text(events.time)},
    description="One row an event; `activity-embeddings push` {pushed}.",
{tags}    owner=OWNER,
)

activity = activity_view(
    activity_events,
    member=member,
    item=item,
    spec=SPEC,
    action={_text(domain.action)},
{event_id}    owner=OWNER,
)
'''


def item_vectors_py(settings: RepoSettings) -> str:
    """Return item_vectors.py: vectors of the user's own, or by an encoder."""
    if isinstance(settings.items, VectorSource):
        return _own_vectors(settings, settings.items)
    return _encoded_vectors(settings, settings.items)


def _own_vectors(settings: RepoSettings, source: VectorSource) -> str:
    domain, made = settings.names, settings.vector_spec
    mapping = _mapping({source.item_id: domain.item_id, source.vector: names.EMBEDDING})
    path = _path(source.path, f"{domain.item}_embeddings.parquet")
    return f'''\
"""Item vectors of your own: one row an item and version, valid from its time on."""

from entities import item
from feast import FileSource
from sources import OWNER

from activity_embeddings import ItemVectorSpec, vector_view

# A change of what the vectors mean, as by another model, is a new version: models are made for one.
VECTOR_SPEC = ItemVectorSpec({_text(made.name)}, {_text(made.version)}, dimension={made.dimension})

vectors_source = FileSource(
    name="{domain.item}_embeddings",
    path={path},
    timestamp_field={_text(source.time)},
{mapping}    description="One row an item and version: id, vector, and since when it is valid.",
    owner=OWNER,
)

vectors = vector_view(vectors_source, item=item, vectors=VECTOR_SPEC, owner=OWNER)
'''


def _encoded_vectors(settings: RepoSettings, source: PostingSource) -> str:
    domain = settings.names
    types = sorted({t for column in source.content for t in re.findall(r"\w+", column.kind)})
    schema = "".join(
        f"        Field(name={_text(column.name)}, dtype={column.kind}),\n"
        for column in source.content
    )
    maps = _mapping({source.item_id: domain.item_id})
    return f'''\
"""Item vectors by an encoder, a SavedModel that reads what the items contain."""

from entities import item
from feast import Field, FileSource
from feast.types import {", ".join(types)}
from sources import OWNER, REPO

from activity_embeddings import encoded_vector_view, posting_view, vector_spec_of

postings_source = FileSource(
    name="{domain.item}_postings",
    path={_path(source.path, f"{domain.item}_postings.parquet")},
    timestamp_field={_text(source.time)},
{maps}    description="One row an item and version: its content, and since when it is like this.",
    owner=OWNER,
)

postings = posting_view(
    postings_source,
    item=item,
    schema=[
{schema}    ],
    owner=OWNER,
)

vectors = encoded_vector_view(
    REPO / "models" / "item_encoder",
    postings=postings,
    item=item,
    repo=REPO,
    owner=OWNER,
)

# What models are made for, where a line of `activity_models.py` has to say it.
VECTOR_SPEC = vector_spec_of(vectors)
'''


def activity_models_py(text: str, model: str) -> str:
    """Return activity_models.py with a line more, as a user adds one for a trained model."""
    return text.replace("\n]\n", f"\n    ActivityModel(MODELS / {_text(model)}),\n]\n")


def services_py(text: str, service: str, model: str) -> str:
    """Return services.py with two services more: a model's published and its request-time value."""
    kinds = (
        ("", "", "the published value"),
        ("_realtime", "    realtime=True,\n", "as of the request"),
    )
    return text + "".join(
        f"""
{service}{suffix} = domain.service(
    {_text(service + suffix)},
    {_text(model)},
{option}    description={_text(f"By the model {model}, {when}.")},
)
"""
        for suffix, option, when in kinds
    )


def feature_store_yaml(text: str, settings: RepoSettings) -> str:
    """Return a settings file with the project of a new feature repo."""
    return re.sub(r"^project: .*$", f"project: {settings.project}", text, count=1, flags=re.M)


def _text(value: str) -> str:
    """Return a Python string in double quotes."""
    quoted = repr(value)
    return quoted if '"' in value else f'"{quoted[1:-1]}"'.replace("\\'", "'")


def _tuple(values: Sequence[str]) -> str:
    listed = ", ".join(map(_text, values))
    return f"({listed},)" if len(values) == 1 else f"({listed})"


def _timedelta(window: timedelta) -> str:
    if window % timedelta(days=1) == timedelta(0):
        return f"timedelta(days={window.days})"
    return f"timedelta(seconds={window.total_seconds():.15g})"


def _path(path: str, default: str) -> str:
    """Return the text of a source's path: the user's, or one in the folder of data."""
    return _text(path or f"data/{default}")


def _mapping(columns: dict[str, str]) -> str:
    """Return the line that maps columns of a source, empty where all have the view's names."""
    others = {theirs: ours for theirs, ours in columns.items() if theirs != ours}
    if not others:
        return ""
    return f"    field_mapping={{{_pairs(others)}}},\n"


def _pairs(values: Mapping[str, str]) -> str:
    """Return what stands between the braces of a dict."""
    return ", ".join(f"{_text(name)}: {_text(value)}" for name, value in values.items())
