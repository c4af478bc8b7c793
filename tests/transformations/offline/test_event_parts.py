"""Events that are read part by part are those of one read, whatever the memory and the source."""

import json
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
import pytest
from feast import Entity, Field, FileSource, RepoConfig
from feast.data_format import FileFormat
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource
from feast.infra.offline_stores.offline_store import OfflineStore
from feast.types import Int64
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow.fs import FileSystem, copy_files
from pyiceberg.types import LongType

from activity_embeddings import ActivitySpec
from activity_embeddings.transformations.definitions.views import activity_view
from activity_embeddings.transformations.errors import InvalidData, InvalidInput
from activity_embeddings.transformations.offline import sources, spill
from activity_embeddings.transformations.offline.iceberg import located

START, END = 1_709_000_000_000_000, 1_709_000_000_001_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SPEC = ActivitySpec(other_actions="ignore")
STRICT = ActivitySpec()
EVERYTHING = 2**40
"""A budget into which all events fit."""
IDS = {"int64": ValueType.INT64, "string": ValueType.STRING}


def view_of(source, ids="int64", event_ids=False):
    kind = IDS[ids]
    return activity_view(
        source,
        member=Entity(name="member", join_keys=["member_id"], value_type=kind),
        item=Entity(name="job", join_keys=["job_id"], value_type=kind),
        spec=SPEC,
        event_id=Field(name="event_id", dtype=Int64) if event_ids else None,
    )


def config_of(folder, **more):
    return RepoConfig(
        project="p",
        registry="none.db",
        provider="local",
        entity_key_serialization_version=3,
        repo_path=folder,
        **more,
    )


def files(folder, **how):
    return view_of(FileSource(name="events", path=f"file://{folder}", timestamp_field="at"), **how)


def table(rows, ids="int64", event_ids=False):
    """Return rows of (member, item, action, time, event) as a table."""
    member, item, action, time, event = [list(column) for column in zip(*rows, strict=True)]
    kind = pa.int64() if ids == "int64" else pa.string()
    columns = {
        "member_id": pa.array(member, kind),
        "job_id": pa.array(item, kind),
        "action": pa.array(action, pa.string()),
        "at": pa.array([START + t for t in time], pa.int64()).cast(pa.timestamp("us", "UTC")),
    }
    if event_ids:
        columns["event_id"] = pa.array(event, pa.int64())
    return pa.table(columns)


def some_rows(seed=0, members=60, rows=900):
    """Rows in and beside the interval; the first members have more than half of them."""
    draw = random.Random(seed)
    return [
        (
            int(members * draw.random() ** 4) - 5,
            draw.randrange(9),
            draw.choice(["APPLY", "SAVE", "VIEW"]),
            draw.randrange(-100, 1100),
            draw.randrange(99),
        )
        for _ in range(rows)
    ]


def plain(events):
    """Return [(member, item, action, time, event)] in the order of the events."""
    members, items = events.member_ids.to_pylist(), events.item_ids.to_pylist()
    event_ids = [None] * len(events)
    if events.event is not None:
        event_ids = [events.event_ids[i].as_py() for i in events.event.tolist()]
    return [
        (members[m], items[i], SPEC.vocabulary[a], t - START, e)
        for m, i, a, t, e in zip(
            events.member.tolist(),
            events.item.tolist(),
            events.action.tolist(),
            events.time.tolist(),
            event_ids,
            strict=True,
        )
    ]


def in_order(rows, event_ids):
    """Return what `plain` gives of all events, by the slow and obvious way."""
    kept = {
        (member, item, action, time, event if event_ids else None)
        for member, item, action, time, event in rows
        if 0 <= time < END - START and action in SPEC.actions
    }
    position = SPEC.actions.index
    return sorted(
        kept,
        key=lambda r: (as_bytes(r[0]), r[3], r[4] or 0, as_bytes(r[1]), position(r[2])),
    )


def as_bytes(value):
    return value.encode() if isinstance(value, str) else value


def read_parts(view, budget, folder, *, config=None, store=None, spec=SPEC):
    """Return the parts, after checking that their ranges are one after the other."""
    parts = list(
        sources.event_parts(
            config or config_of(folder),
            store,
            [view],
            spec,
            start=START,
            end=END,
            budget=budget,
            folder=folder,
        )
    )
    ranges = [members for members, _ in parts]
    assert ranges[0].first is None
    assert ranges[-1].end is None
    for one, following in pairwise(ranges):
        assert one.end == following.first
        assert one.first is None or one.first.as_py() < one.end.as_py()
    for members, events in parts:
        assert members.of(events.member_ids).equals(events.member_ids)
    assert not list(folder.glob("spilled-*"))
    return parts


def joined(parts):
    return [row for _, events in parts for row in plain(events)]


TEXTS = st.text(st.sampled_from(["a", "b", "\1", "é", "\U0001f600", "\uffff"]), max_size=3)


@st.composite
def cases(draw):
    ids = draw(st.sampled_from(list(IDS)))
    one = st.integers(-3, 3) | st.sampled_from([-(2**63), 2**63 - 1])
    if ids == "string":
        one = TEXTS
    row = st.tuples(
        one,
        one,
        st.sampled_from(["APPLY", "SAVE", "DISMISS", "VIEW"]),
        st.sampled_from([-1, 0, 1, 2, 999, 1000]),
        st.integers(0, 2),
    )
    rows = draw(st.lists(row, min_size=1, max_size=40))
    return ids, draw(st.booleans()), rows, draw(st.integers(1, 20_000)), draw(st.integers(1, 9))


@given(cases())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_parts_of_any_size_are_the_whole(tmp_path_factory, case):
    ids, event_ids, rows, budget, group = case
    folder = tmp_path_factory.mktemp("parts")
    path = folder / "data"
    pq.write_table(table(rows, ids, event_ids), path, row_group_size=group)
    parts = read_parts(files(path, ids=ids), budget, folder)
    assert joined(parts) == in_order(rows, event_ids)
    (_, whole), *more = read_parts(files(path, ids=ids), EVERYTHING, folder)
    assert not more
    for what in ("duplicates", "other_actions"):
        times = np.concatenate([getattr(events, what) for _, events in parts])
        assert sorted(times) == sorted(getattr(whole, what))


@pytest.mark.parametrize("order", ["by member", "by time"])
@pytest.mark.parametrize("ids", list(IDS))
def test_a_part_is_within_the_budget_unless_it_is_one_member(tmp_path, monkeypatch, ids, order):
    monkeypatch.setattr(spill, "MOST_FILES", 4)
    monkeypatch.setattr(spill, "SAMPLE_ROWS", 50)
    monkeypatch.setattr(sources, "SAMPLE_ROWS", 50)
    rows = some_rows(rows=3000, members=200)
    rows.sort(key=lambda row: row[0] if order == "by member" else row[3])
    if ids == "string":
        rows = [(f"m{m}", f"j{j}", *more) for m, j, *more in rows]
    (tmp_path / "data").mkdir()
    for i in range(0, 3000, 500):  # so that the sample is of the first rows
        pq.write_table(table(rows[i : i + 500], ids), tmp_path / "data" / f"{i}")
    budget = 20_000
    parts = read_parts(files(tmp_path / "data", ids=ids), budget, tmp_path)
    assert joined(parts) == in_order(rows, False)
    sizes = []
    for _, events in parts:
        read = len(events) + len(events.duplicates) + len(events.other_actions)
        # A row takes 100 bytes, and more for what it holds.
        assert read * 100 <= budget or len(events.member_ids) <= 1
        sizes.append(read)
    assert len(parts) >= 12
    # Most parts are nearly full.
    assert np.median(sizes) > 60


def rows_by_member(ids, seed=0):
    """Return rows of which no member has many, by member, as text by its bytes."""
    rows = [(i % 90, *row[1:]) for i, row in enumerate(some_rows(seed))]
    if ids == "string":
        rows = [(f"m{m}\U0001f600" if m % 3 else f"m{m}\uffff", f"j{j}", *o) for m, j, *o in rows]
    return sorted(rows, key=lambda row: as_bytes(row[0]))


@pytest.mark.parametrize("ids", list(IDS))
def test_files_by_member_are_read_in_their_order_and_nothing_is_written(tmp_path, ids):
    rows = rows_by_member(ids)
    (tmp_path / "data").mkdir()
    for i in range(3):  # as of three writers
        pq.write_table(table(rows[i::3], ids), tmp_path / "data" / f"{i}", row_group_size=10)
    elsewhere = f"fsspec+memory://events/{ids}"
    store, root = FileSystem.from_uri(elsewhere)
    copy_files(str(tmp_path / "data"), root, destination_filesystem=store)
    for place in (f"file://{tmp_path}/data", elsewhere):
        view = view_of(FileSource(name="events", path=place, timestamp_field="at"), ids)
        parts = read_parts(view, 20_000, tmp_path / "nowhere")
        assert len(parts) > 5
        assert joined(parts) == in_order(rows, False)
    # One file that is by time takes more memory to be put in order than there is.
    rows += rows_by_member(ids, seed=1)
    rows.sort(key=lambda row: row[3])
    pq.write_table(table(rows, ids), tmp_path / "data" / "3", row_group_size=100)
    with pytest.raises(InvalidInput, match="expected a folder with room for the rows"):
        read_parts(files(tmp_path / "data", ids=ids), 20_000, tmp_path / "nowhere")
    assert joined(read_parts(files(tmp_path / "data", ids=ids), 20_000, tmp_path)) == in_order(
        rows, False
    )


@pytest.mark.parametrize(("said", "right"), [(b"cb\xc3", True), ("cÿ".encode(), False)])
def test_a_footer_may_have_the_first_bytes_of_an_id_alone(tmp_path, said, right):
    rows = [(f"{m}é", "j", "SAVE", t, 0) for m in "abcde" for t in range(10)]
    pq.write_table(table(rows, "string"), tmp_path / "data", row_group_size=10)
    content = (tmp_path / "data").read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    data, footer = content[:start], content[start:]
    assert "cé".encode() in footer
    (tmp_path / "data").write_bytes(data + footer.replace("cé".encode(), said))
    view = files(tmp_path / "data", ids="string")
    if right:
        assert joined(read_parts(view, 2_500, tmp_path / "nowhere")) == in_order(rows, False)
    else:
        with pytest.raises(InvalidData, match=r"no value below 'cÿ' in rows of which the file"):
            read_parts(view, 2_500, tmp_path / "nowhere")


def test_what_fits_is_one_part_and_writes_nothing(tmp_path):
    pq.write_table(table(some_rows()), tmp_path / "data")
    view = files(tmp_path / "data")
    nowhere = tmp_path / "nowhere"
    for budget in (EVERYTHING, 300_000):  # without a look at rows, and with one
        ((members, events),) = sources.event_parts(
            config_of(tmp_path),
            None,
            [view],
            SPEC,
            start=START,
            end=END,
            budget=budget,
            folder=nowhere,
        )
        assert (members.first, members.end) == (None, None)
        assert plain(events) == in_order(some_rows(), False)


def test_a_source_without_an_event_in_the_interval_is_one_part(tmp_path):
    pq.write_table(table([(1, 1, "SAVE", -5, 0), (2, 1, "SAVE", 5000, 0)]), tmp_path / "data")
    ((_, events),) = read_parts(files(tmp_path / "data"), 1, tmp_path)
    assert len(events) == 0


def test_files_are_gone_however_the_parts_end(tmp_path):
    pq.write_table(table(some_rows()), tmp_path / "data")
    parts = sources.event_parts(
        config_of(tmp_path),
        None,
        [files(tmp_path / "data")],
        SPEC,
        start=START,
        end=END,
        budget=9000,
        folder=tmp_path,
    )
    next(parts)
    assert len(list(tmp_path.glob("spilled-*/*"))) > 1
    parts.close()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    pq.write_table(table(some_rows()), tmp_path / "data")
    parts = sources.event_parts(
        config_of(tmp_path),
        None,
        [files(tmp_path / "data")],
        SPEC,
        start=START,
        end=END,
        budget=9000,
        folder=tmp_path / "nowhere",
    )
    with pytest.raises(InvalidInput, match=r"nowhere: expected a folder with room for the rows"):
        next(parts)


def test_types_that_mean_the_same_are_spilled_together(tmp_path):
    rows, folder = some_rows(), tmp_path / "data"
    folder.mkdir()
    whole = table(rows)
    texts = [pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.string_view()]
    for i, text in enumerate(texts):
        part = whole.slice(i * 300, 300)
        part = part.set_column(2, "action", part["action"].cast(text))
        part = part.set_column(
            0, "member_id", part["member_id"].cast([pa.int8(), pa.int32()][i % 2])
        )
        part = part.set_column(3, "at", part["at"].cast(pa.timestamp("ns", "Asia/Kolkata")))
        pq.write_table(part, folder / f"{i}")
    assert joined(read_parts(files(folder), 9000, tmp_path)) == in_order(rows, False)


def replaced(name, values):
    whole = table([(m, 1, "SAVE", m, m) for m in range(9)])
    return whole.set_column(whole.column_names.index(name), name, values)


BAD = {
    "a null id": replaced("member_id", pa.array([None, *range(8)], pa.int64())),
    "ids that are floats": replaced("job_id", pa.array([0.5] * 9)),
    "ids of another type": replaced("member_id", pa.array(["x"] * 9)),
    "a null time": replaced("at", pa.array([None] * 9, pa.timestamp("us", "UTC"))),
    "naive times": replaced("at", pa.array([START] * 9, pa.timestamp("us"))),
    "an unknown action": replaced("action", pa.array(["SAVE"] * 8 + ["VIEW"])),
    "a null action": replaced("action", pa.array(["SAVE"] * 8 + [None])),
    "actions that are numbers": replaced("action", pa.array([1] * 9)),
    "a missing column": table([(1, 1, "SAVE", 1, 1)]).drop_columns(["action"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_as_by_one_read_before_the_first_part(tmp_path, case):
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(table([(m, 1, "SAVE", m, m) for m in range(9)]), folder / "a")
    pq.write_table(BAD[case], folder / "b")
    view = files(folder)
    messages = []
    for budget in (EVERYTHING, 1):
        with pytest.raises(InvalidData) as raised:
            next(
                sources.event_parts(
                    config_of(tmp_path),
                    None,
                    [view],
                    STRICT,
                    start=START,
                    end=END,
                    budget=budget,
                    folder=tmp_path,
                )
            )
        messages.append(str(raised.value).partition(". Received")[0])
    assert messages[0] == messages[1]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_bad_rows_beside_the_interval_do_not_matter(tmp_path):
    rows = [(m, 1, "SAVE", 5 if m else -5, 0) for m in range(4)]
    bad = table(rows).set_column(0, "member_id", pa.array([None, 1, 2, 3], pa.int64()))
    pq.write_table(bad, tmp_path / "data")
    assert len(joined(read_parts(files(tmp_path / "data"), 1, tmp_path))) == 3


def test_event_ids_that_are_declared_are_there(tmp_path):
    pq.write_table(table(some_rows()), tmp_path / "data")
    with pytest.raises(InvalidData, match="'event_id' is missing"):
        read_parts(files(tmp_path / "data", event_ids=True), 9000, tmp_path)


def test_only_row_groups_of_the_interval_count(tmp_path):
    rows = [(m, 1, "SAVE", m - 50, 0) for m in range(100)]
    pq.write_table(table(rows), tmp_path / "data", row_group_size=10)
    stored = sources.parquet_files(config_of(tmp_path), files(tmp_path / "data"))
    assert stored.most_rows(None, 4 * 10**15) == 100
    assert stored.most_rows(START - 5, START + 1) == 20
    assert stored.most_rows(START + 60, START + 90) == 0


def iceberg_view(folder, *tables, ids="int64"):
    """Return an Iceberg table of one file a table, and the view of events."""
    source = IcebergSource(
        name="events",
        warehouse="lake",
        namespace="lake",
        table="events",
        catalog_type="sql",
        catalog_properties={"uri": "sqlite:///lake.db"},
        timestamp_field="at",
    )
    catalog = located(source, folder).get_catalog_client()
    catalog.create_namespace("lake")
    made = catalog.create_table("lake.events", tables[0].schema)
    for one in tables:
        made.append(one)
    return made, view_of(source, ids)


@pytest.mark.parametrize("ids", list(IDS))
def test_parts_of_an_iceberg_table_are_the_whole(tmp_path, ids):
    rows = some_rows()
    if ids == "string":
        rows = [(f"m{m}", f"j{j}", *more) for m, j, *more in rows]
    whole = table(rows, ids, event_ids=True)
    _, view = iceberg_view(tmp_path, whole.slice(0, 500), whole.slice(500), ids=ids)
    assert sources.iceberg_rows(config_of(tmp_path), view).most_rows(START, END) == 900
    assert sources.iceberg_rows(config_of(tmp_path), view).most_rows(None, START - 200) == 0
    parts = read_parts(view, 20_000, tmp_path)
    assert len(parts) > 5
    assert joined(parts) == in_order(rows, True)


@pytest.mark.parametrize("ids", list(IDS))
def test_an_iceberg_table_by_member_is_read_in_its_order(tmp_path, ids):
    rows = rows_by_member(ids)
    whole = table(rows, ids, event_ids=True)
    made, view = iceberg_view(tmp_path, whole.slice(0, 0), ids=ids)
    with made.transaction() as transaction:
        transaction.set_properties({"write.parquet.row-group-limit": "20"})
    for i in range(2):
        made.append(table(rows[i::2], ids, event_ids=True))
    parts = read_parts(view, 20_000, tmp_path / "nowhere", config=config_of(tmp_path))
    assert len(parts) > 5
    assert joined(parts) == in_order(rows, True)


@pytest.mark.postgres
@pytest.mark.parametrize("kind", ["timestamptz", "timestamp"])
def test_parts_of_a_table_in_postgresql_are_the_whole(tmp_path, database, kind):
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        PostgreSQLSource,
    )

    rows = [(f"m{m}", f"j{j}", *more) for m, j, *more in some_rows()]
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE events (member_id text, job_id varchar, action text, "
            f"at {kind}, event_id bigint)"
        )
        with cursor.copy("COPY events FROM STDIN") as copy:
            for member, item, action, time, event in rows:
                at = EPOCH + timedelta(microseconds=START + time)
                at = at.replace(tzinfo=None) if kind == "timestamp" else at
                copy.write_row((member, item, action, at, event))
    view = view_of(PostgreSQLSource(name="e", table="events", timestamp_field="at"), "string")
    config = config_of(tmp_path, offline_store={"type": "postgres", **database.settings})
    inside = sum(0 <= row[3] <= 1000 for row in rows)
    assert sources.postgres_table(config, view).most_rows(START, END) == inside
    # The server sorts: nothing is written here.
    parts = read_parts(view, 20_000, tmp_path / "nowhere", config=config)
    assert len(parts) > 5
    assert joined(parts) == in_order(rows, True)


ORDERED_IDS = {
    "text": ["a", "B", "b", "ä", "Z", "z", "é", "\uffff", "\U0001f600", "~"],
    'text COLLATE "en-x-icu"': ["10", "9", "Ä", "a_", "a.", "aa", "A"],
    "uuid": [f"{i}0000000-0000-0000-0000-000000000000" for i in "07f3a"],
    "bigint": [-(2**63), -3, 2, 10, 2**63 - 1],
    "smallint": [-3, 10, 9],
}


@pytest.mark.postgres
@pytest.mark.parametrize("kind", ORDERED_IDS)
def test_the_server_orders_members_as_they_are_ordered_here(tmp_path, database, kind):
    members = ORDERED_IDS[kind]
    rows = [(member, 1, "SAVE", time, 0) for time in range(40) for member in members]
    view, config = postgres_events(tmp_path, database, rows, kind)
    parts = read_parts(view, 6_000, tmp_path / "nowhere", config=config)
    assert len(parts) >= 3
    assert joined(parts) == in_order(rows, True)


@pytest.mark.postgres
def test_a_bad_row_is_refused_though_members_before_it_were_given(tmp_path, database):
    rows = [(member, 1, "SAVE", time, 0) for time in range(40) for member in range(9)]
    view, config = postgres_events(tmp_path, database, [*rows, (9, 1, "VIEW", 1, 0)], "bigint")
    with pytest.raises(InvalidData, match="VIEW"):
        read_parts(view, 6_000, tmp_path, config=config, spec=STRICT)


def postgres_events(folder, database, rows, kind):
    """Return a view of events in PostgreSQL whose ids of members are of a type, and the config."""
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        PostgreSQLSource,
    )

    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE events (member_id {kind}, job_id bigint, action text, "
            "at timestamptz, event_id bigint)"
        )
        with cursor.copy("COPY events FROM STDIN") as copy:
            for member, item, action, time, event in rows:
                at = EPOCH + timedelta(microseconds=START + time)
                copy.write_row((member, item, action, at, event))
    source = PostgreSQLSource(name="e", table="events", timestamp_field="at")
    config = config_of(folder, offline_store={"type": "postgres", **database.settings})
    return view_of(source, "int64" if kind.endswith("int") else "string"), config


class JsonLines(FileFormat):
    def to_proto(self):
        raise NotImplementedError


class JsonLinesSource(FileSource):
    def get_table_column_names_and_types(self, config):
        return [(name, "any") for name in read_json(self).column_names]


def read_json(source):
    return pyarrow.json.read_json(source.path.removeprefix("file://"))


class JsonLinesStore(OfflineStore):
    """A store of a user's own, of which nothing is known here; it gives the whole table at once."""

    @staticmethod
    def pull_all_from_table_or_query(*, data_source, **how):
        rows = read_json(data_source)
        at = rows["at"].cast(pa.timestamp("us", "UTC"))
        rows = rows.set_column(rows.column_names.index("at"), "at", at)
        return SimpleNamespace(to_arrow=lambda: rows)


def test_parts_of_what_another_store_reads_are_the_whole(tmp_path):
    rows = some_rows()
    lines = [
        json.dumps({"member_id": m, "job_id": j, "action": a, "at": START + t})
        for m, j, a, t, _ in rows
    ]
    (tmp_path / "data").write_text("\n".join(lines))
    source = JsonLinesSource(
        path=f"file://{tmp_path}/data", timestamp_field="at", file_format=JsonLines()
    )
    parts = read_parts(view_of(source), 9000, tmp_path, store=JsonLinesStore)
    assert len(parts) > 5
    assert joined(parts) == in_order(rows, False)
    ((_, whole),) = read_parts(view_of(source), EVERYTHING, tmp_path, store=JsonLinesStore)
    assert plain(whole) == in_order(rows, False)


def test_parts_of_an_iceberg_table_whose_columns_were_changed_are_the_whole(tmp_path):
    """Its older files have them under other names, or of narrower types."""
    rows = some_rows()
    whole = table(rows, event_ids=True)
    narrow = whole.set_column(0, "member_id", whole["member_id"].cast(pa.int32()))
    narrow = narrow.rename_columns({"action": "verb"})
    made, view = iceberg_view(tmp_path, narrow.slice(0, 300))
    with made.update_schema() as update:
        update.update_column("member_id", LongType())
    made.append(whole.slice(300, 300).rename_columns({"action": "verb"}))
    with made.update_schema() as update:
        update.rename_column("verb", "action")
    made.append(whole.slice(600))
    assert joined(read_parts(view, 20_000, tmp_path)) == in_order(rows, True)
    made.delete("member_id < 3")
    left = [row for row in rows if row[0] >= 3]
    assert joined(read_parts(view, 20_000, tmp_path)) == in_order(left, True)


def test_what_is_wrong_in_an_iceberg_table_is_said_before_the_first_part(tmp_path):
    whole = table(some_rows(), event_ids=True)
    bad = whole.set_column(0, "member_id", pa.array([None] * len(whole), pa.int64()))
    _, view = iceberg_view(tmp_path, whole, bad)
    with pytest.raises(InvalidData, match="'member_id' should hold no nulls"):
        read_parts(view, 20_000, tmp_path)
