"""Every file of a source is read as what it holds, or refused by name."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FileSource
from hypothesis import given
from hypothesis import strategies as st

from activity_embeddings.transformations.errors import InvalidData, InvalidInput
from activity_embeddings.transformations.offline.columns import RowsAsked
from activity_embeddings.transformations.offline.parquet_files import ParquetFiles

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UTC_US = pa.timestamp("us", "UTC")
COLUMNS = {"member_id": "member", "action": "what"}


def files_of(path, *, repo=None):
    return ParquetFiles(FileSource(path=str(path), timestamp_field="at"), repo, "events")


def table(members, times=None, **columns):
    times = range(len(members)) if times is None else times
    held = {"member": pa.array(members), "what": pa.array(["APPLY"] * len(members))}
    return pa.table({**held, "at": pa.array(times, pa.int64()).cast(UTC_US), **columns})


def read(path, *, start=None, end=4 * 10**15, columns=COLUMNS, optional=(), repo=None):
    ids = ["member_id", "event_id"]
    asked = RowsAsked(columns, ids, "event_timestamp", start, end, optional)
    return files_of(path, repo=repo).read(asked)


def members(path, **how):
    return sorted(read(path, **how)["member_id"].to_pylist())


@pytest.mark.parametrize(
    "name",
    [
        "b.parquet",
        "000000_0",
        "b.parq",
        "b.PARQUET",
        "part-0.snappy.parquet.gz",
        "sub/dir/x",
        "dt=3/p",
    ],
)
def test_a_file_of_any_name_counts(tmp_path, name):
    pq.write_table(table([1]), tmp_path / "a.parquet")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table([2, 3]), tmp_path / name)
    assert members(tmp_path) == [1, 2, 3]
    assert files_of(tmp_path).count_rows() == 3


def test_links_are_followed_and_what_is_met_again_counts_once(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "sub").mkdir(parents=True)
    pq.write_table(table([1]), elsewhere / "sub" / "x")
    pq.write_table(table([2]), tmp_path / "single")
    source = tmp_path / "source"
    source.mkdir()
    (source / "folder").symlink_to(elsewhere)
    (source / "again").symlink_to(elsewhere)
    (source / "file.parquet").symlink_to(tmp_path / "single")
    (source / "back").symlink_to(source)
    pq.write_table(table([3]), source / "own")
    assert members(source) == [1, 2, 3]
    linked = tmp_path / "link"
    linked.symlink_to(source)
    assert members(linked) == [1, 2, 3]


def test_markers_and_what_is_being_written_are_passed_over_and_counted(tmp_path):
    pq.write_table(table([1]), tmp_path / "a")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".a.crc").write_bytes(b"1234")
    (tmp_path / ".live.parquet.staging").write_bytes(b"PAR1 half a fi")
    pq.write_metadata(pq.read_schema(tmp_path / "a"), tmp_path / "_metadata")
    (tmp_path / "_temporary" / "0").mkdir(parents=True)
    pq.write_table(table([2]), tmp_path / "_temporary" / "0" / "part.parquet")
    assert members(tmp_path) == [1]
    assert files_of(tmp_path).count_hidden() == 1


@pytest.mark.parametrize("name", ["_b.parquet", ".b.parq", "_b.PARQUET"])
def test_a_hidden_file_that_is_called_parquet_is_refused_by_name(tmp_path, name):
    pq.write_table(table([1]), tmp_path / "a")
    pq.write_table(table([2]), tmp_path / name)
    with pytest.raises(InvalidInput, match=f"events: .*Received: {name}. Rename"):
        read(tmp_path)


def test_a_delta_table_is_refused_as_a_folder_of_files(tmp_path):
    pq.write_table(table([1]), tmp_path / "a.parquet")
    (tmp_path / "_delta_log").mkdir()
    (tmp_path / "_delta_log" / "0.json").write_text("{}")
    with pytest.raises(InvalidInput, match="Delta table"):
        read(tmp_path)


def write_broken(folder, kind):
    path = folder / "b.parquet"
    match kind:
        case "empty":
            path.touch()
        case "half-written":
            pq.write_table(table(list(range(5000))), path)
            path.write_bytes(path.read_bytes()[:-200])
        case "of another kind":
            path = folder / "manifest.json"
            path.write_text("{}")
        case "with a damaged page":
            pq.write_table(table(list(range(5000))), path, compression="snappy")
            data = bytearray(path.read_bytes())
            data[40:4000] = os.urandom(3960)
            path.write_bytes(data)
        case "a link to none":
            path.symlink_to(folder / "gone")
        case "a pipe":
            os.mkfifo(path)
    return path.name


@pytest.mark.parametrize(
    "kind",
    ["empty", "half-written", "of another kind", "with a damaged page", "a link to none", "a pipe"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, kind):
    pq.write_table(table([1]), tmp_path / "a.parquet")
    name = write_broken(tmp_path, kind)
    with pytest.raises(InvalidInput, match=f"events, file {name}: expected a readable source"):
        read(tmp_path)


def test_a_source_that_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="events: expected a readable source"):
        read(tmp_path / "gone")
    with pytest.raises(InvalidInput, match=r"at least one parquet file.*an empty folder"):
        read(tmp_path)


OTHER_COLUMNS = {
    "a column is missing": (table([2]).drop_columns(["what"]), "'what' is missing"),
    "text ids among integers": (table(["x"]), "'member_id'.*string, and int64 in a.parquet"),
    "naive times": (
        table([2]).set_column(2, "at", pa.array([5], pa.timestamp("us"))),
        "'at'.*without a time zone",
    ),
    "times as text": (table([2]).set_column(2, "at", pa.array(["now"])), "'at'.*string"),
    "a null time": (
        table([2, 3]).set_column(2, "at", pa.array([None, 5], UTC_US)),
        "no nulls.*1 of",
    ),
    "a null id": (table([2, None]), "'member'.*no nulls.*1 of 2"),
    "ids past int64": (table(pa.array([2**63 + 5], pa.uint64())), "int64.*9223372036854775813"),
    "ids that are floats": (table([2.0]), "int64 or string. Received: double"),
    "ids with a NUL": (table(["a\0"]), "NUL"),
    "ids that are no text": (
        table([2]).set_column(0, "member", pa.array([b"\xff"]).view(pa.string())),
        "UTF-8",
    ),
    "a column twice": (
        pa.Table.from_arrays(
            [*table([2]).columns, pa.array([7])], names=["member", "what", "at", "member"]
        ),
        "'member' should be there once. Received: 2",
    ),
    "actions that are numbers": (
        table([2]).set_column(1, "what", pa.array([1])),
        "'action'.*int64, and string in a.parquet",
    ),
}


@pytest.mark.parametrize("case", OTHER_COLUMNS)
def test_a_file_with_other_columns_is_named(tmp_path, case):
    other, message = OTHER_COLUMNS[case]
    pq.write_table(table([1]), tmp_path / "a.parquet")
    pq.write_table(table([9]), tmp_path / "z.parquet")
    pq.write_table(other, tmp_path / "b.parquet")
    with pytest.raises(InvalidInput, match=f"events, file b.parquet: .*{message}"):
        read(tmp_path)


def test_a_bad_value_among_files_alike_is_said_of_its_file(tmp_path):
    for name, ids in {"a": ["x"], "b": ["y\0"], "c": ["z"]}.items():
        pq.write_table(table(ids), tmp_path / name)
    with pytest.raises(InvalidInput, match=r"file b: .*NUL"):
        read(tmp_path)


def test_an_optional_column_is_in_all_files_or_in_none(tmp_path):
    wanted = {**COLUMNS, "event_id": "nr"}
    pq.write_table(table([1]), tmp_path / "a")
    assert "event_id" not in read(tmp_path, columns=wanted, optional=["event_id"]).column_names
    pq.write_table(table([2], nr=pa.array([5], pa.int32())), tmp_path / "b")
    with pytest.raises(InvalidData, match="file a: column 'nr' is missing"):
        read(tmp_path, columns=wanted, optional=["event_id"])
    pq.write_table(table([1], nr=pa.array([4])), tmp_path / "a")
    got = read(tmp_path, columns=wanted, optional=["event_id"])
    assert sorted(got["event_id"].to_pylist()) == [4, 5]


def test_files_without_rows_may_have_columns_of_any_type(tmp_path):
    """As pandas writes an empty frame: without types, or without columns."""
    pd.DataFrame({"member": [], "what": [], "at": []}, dtype=object).to_parquet(tmp_path / "a")
    pd.DataFrame().to_parquet(tmp_path / "b")
    pq.write_table(table(["x", "y"]), tmp_path / "c")
    assert members(tmp_path) == ["x", "y"]
    assert files_of(tmp_path).schema().field("member").type == pa.string()


def test_types_that_mean_the_same_are_read_together(tmp_path):
    texts = [
        pa.string(),
        pa.large_string(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.string_view(),
    ]
    ints = [pa.int8(), pa.uint16(), pa.int64(), pa.uint64()]
    lists = [
        pa.list_(pa.float32()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float64()),
        pa.list_(pa.float32(), 2),
    ]
    for i, (text, number, kind) in enumerate(zip(texts, ints, lists, strict=True)):
        pq.write_table(
            pa.table(
                {
                    "member": pa.array([i], number),
                    "what": pa.array(["SAVE"]).cast(text),
                    "v": pa.array([[0.5, i]], kind),
                    "at": pa.array([i], UTC_US),
                }
            ),
            tmp_path / f"{i}",
        )
    got = read(tmp_path, columns={**COLUMNS, "v": "v"}).sort_by("member_id")
    assert got["member_id"].to_pylist() == [0, 1, 2, 3]
    assert set(got["action"].to_pylist()) == {"SAVE"}
    assert got["v"].to_pylist() == [[0.5, i] for i in range(4)]


@st.composite
def zoned_times(draw):
    unit = draw(st.sampled_from(["s", "ms", "us", "ns"]))
    zone = draw(st.sampled_from(["UTC", "America/New_York", "+05:30", "Asia/Kolkata"]))
    size = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    most = 5_000_000_000 * size
    return unit, zone, draw(st.lists(st.integers(-most, most), min_size=1, max_size=6))


@given(zoned_times(), st.integers(-(10**16), 10**16), st.integers(0, 10**16))
def test_times_of_any_unit_and_zone_are_read_to_the_microsecond(
    tmp_path_factory, case, start, span
):
    unit, zone, values = case
    folder = tmp_path_factory.mktemp("times")
    at = pa.array(values, pa.int64()).cast(pa.timestamp(unit, zone))
    pq.write_table(table(list(range(len(values)))).set_column(2, "at", at), folder / "f")
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    exact = [value * 10**6 // per_second for value in values]
    end = start + span
    got = read(folder, start=start, end=end)
    assert got.schema.field("event_timestamp").type == UTC_US
    moments = got["event_timestamp"].cast(pa.int64()).to_pylist()
    pairs = zip(got["member_id"].to_pylist(), moments, strict=True)
    assert sorted(pairs) == [(i, t) for i, t in enumerate(exact) if start <= t <= end]
    assert files_of(folder).earliest() == min(exact)
    assert files_of(folder).latest() == max(exact)


def test_what_pandas_writes_by_default_is_read(tmp_path):
    times = pd.to_datetime(["2024-03-01T00:00:00.123456789Z", "2024-03-01T00:00:00.123456999Z"])
    frame = pd.DataFrame({"member": [1, 2], "what": ["SAVE"] * 2, "at": times})
    frame["at"] = frame["at"].astype("datetime64[ns, UTC]")
    frame.to_parquet(tmp_path / "frame.parquet")
    got = read(tmp_path)["event_timestamp"].to_pylist()
    assert [moment.microsecond for moment in got] == [123456, 123456]
    for moment in (files_of(tmp_path).earliest(), files_of(tmp_path).latest()):
        assert EPOCH + timedelta(microseconds=moment) == times[0].floor("us")


def test_the_first_and_the_last_time_are_those_of_all_files(tmp_path):
    for name, times in {"a": [7, -3], "sub/b": [12], "c": []}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(table([1] * len(times), times), tmp_path / name)
    assert (files_of(tmp_path).earliest(), files_of(tmp_path).latest()) == (-3, 12)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_first_and_the_last_time_without_a_zone_are_taken_as_utc(tmp_path, unit):
    size = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    at = pa.array([-2 * size, 3 * size], pa.timestamp(unit))
    pq.write_table(table([1, 2]).set_column(2, "at", at), tmp_path / "a")
    assert (files_of(tmp_path).earliest(), files_of(tmp_path).latest()) == (-2_000_000, 3_000_000)


def test_times_that_python_has_no_datetime_for_are_told_and_read(tmp_path):
    far = 400_000_000_000_000_000  # in the year 14645
    pq.write_table(table([1, 2], [5, far], expires=pa.array([far] * 2, UTC_US)), tmp_path / "a")
    assert (files_of(tmp_path).earliest(), files_of(tmp_path).latest()) == (5, far)
    assert members(tmp_path) == [1]


@pytest.mark.parametrize("kind", ["no statistics", "no times", "no column", "nulls", "int96"])
def test_footers_that_do_not_say_the_times_say_none(tmp_path, kind):
    other, how = table([1]), {}
    match kind:
        case "no statistics":
            how = {"write_statistics": False}
        case "no times":
            other = other.set_column(2, "at", pa.array([7]))
        case "no column":
            other = other.drop_columns(["at"])
        case "nulls":
            other = other.set_column(2, "at", pa.array([None], UTC_US))
        case "int96":
            how = {"use_deprecated_int96_timestamps": True}
    pq.write_table(table([1]), tmp_path / "a")
    pq.write_table(other, tmp_path / "b", **how)
    assert files_of(tmp_path).earliest() is None
    assert files_of(tmp_path).latest() is None


def test_the_head_is_of_the_first_file_with_rows(tmp_path):
    pq.write_table(table([]), tmp_path / "a.parquet")
    pq.write_table(table([1, 2, 3], more=pa.array(["x"] * 3)), tmp_path / "b", row_group_size=1)
    pq.write_table(table([4]), tmp_path / "c.parquet")
    head = files_of(tmp_path).head(2)
    assert head["member"].to_pylist() == [1, 2]
    assert head.column_names == ["member", "what", "at", "more"]
    assert files_of(tmp_path / "a.parquet").head(2).schema == table([]).schema


@pytest.mark.parametrize("text", ["a,b\n1,2\n", '{"a": 1}\n'])
def test_a_file_of_text_is_refused_with_what_to_do(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    for path, name in ((tmp_path, "events, file a.csv"), (tmp_path / "a.csv", "events")):
        with pytest.raises(
            InvalidData,
            match=f"^{name}: expected a readable source of parquet files; "
            r"convert CSV and JSON lines first, .*`to_parquet`. Received: .*not a parquet file",
        ):
            files_of(path).head(9)


def test_a_relative_path_is_within_the_repo_and_a_uri_is_read_too(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    pq.write_table(table([1]), tmp_path / "data" / "a")
    monkeypatch.chdir("/")
    assert members("data", repo=tmp_path) == [1]
    assert members(Path("data/a"), repo=tmp_path) == [1]
    source = FileSource(path=f"file://{tmp_path}/data", timestamp_field="at")
    files = ParquetFiles(source, None, "events")
    assert files.count_rows() == 1
    assert files.local_path == tmp_path / "data"


def test_only_the_rows_of_the_interval_are_read(tmp_path):
    pq.write_table(table(list(range(1000))), tmp_path / "a", row_group_size=10)
    assert members(tmp_path, start=20, end=29) == list(range(20, 30))
    assert np.array_equal(members(tmp_path, end=4), np.arange(5))
