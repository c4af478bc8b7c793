"""The cut-off of a training join is the label's time, whatever its column is called; never now."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.serving.request import InvalidRequest
from support.feast_repo import at, small_repo

pytestmark = pytest.mark.slow

VIEW = "job_activity_embedding_cnn_realtime"
FEATURES = [f"{VIEW}:{n}" for n in ("activity_embedding", "activity_count", "last_activity_at")]
STORES = [
    "activity_embeddings.OrderedDuckDBOfflineStore",
    "duckdb",
    "activity_embeddings.OrderedDaskOfflineStore",
]
MEMBERS, LABELS = [14, 3, 5], [at(2.5), at(4.5), at(4.2)]

# Views of somebody else, whose columns are called as the times of labels often are.
OTHERS = """
from entities import member
from feast import FeatureView, Field, FileSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64, String, UnixTimestamp

clicks = FeatureView(
    name="clicks",
    entities=[member],
    source=FileSource(name="clicks", path={path!r}, timestamp_field="known_at"),
    schema=[
        Field(name="member_id", dtype=Int64),
        Field(name="event_timestamp", dtype=UnixTimestamp),
        Field(name="clicks", dtype=Int64),
    ],
)


@on_demand_feature_view(
    sources=[
        clicks,
        RequestSource(name="event", schema=[Field(name="event_timestamp", dtype=String)]),
    ],
    schema=[Field(name="doubled", dtype=Int64)],
    mode="python",
)
def doubled_clicks(inputs):
    return {{"doubled": [2 * (count or 0) for count in inputs["clicks"]]}}
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory, models):
    path = tmp_path_factory.mktemp("join") / "repo"
    repo = small_repo(path, models)
    file = repo.data / "clicks.parquet"
    (repo.path / "others.py").write_text(OTHERS.format(path=str(file)))
    times = pa.timestamp("us", "UTC")
    pq.write_table(
        pa.table(
            {
                "member_id": MEMBERS,
                "event_timestamp": pa.array([at(-30)] * 3, times),
                "clicks": [1, 2, 3],
                "known_at": pa.array([at(-2)] * 3, times),
            }
        ),
        file,
    )
    repo.publish(at(-41), at(4))
    return repo


def store_of(repo, kind=STORES[0]):
    settings = repo.path / "feature_store.yaml"
    text = settings.read_text()
    settings.write_text(text.replace(f"type: {STORES[0]} ", f"type: {kind} "))
    store = repo.store
    settings.write_text(text)
    return store


@pytest.fixture(scope="module")
def store(repo):
    return repo.store


def labels(column, **more):
    """Return labels; each member acted a minute before theirs, and a second after."""
    frame = pd.DataFrame({"member_id": MEMBERS, column: pd.to_datetime(LABELS, utc=True)})
    return frame.assign(**recent(), request_timestamp=None).assign(**more)


def recent():
    minute, second = pd.Timedelta(minutes=1), pd.Timedelta(seconds=1)
    return {
        "recent_job_ids": [[1, 2]] * 3,
        "recent_job_actions": [["APPLY", "SAVE"]] * 3,
        "recent_job_timestamps": [[time - minute, time + second] for time in LABELS],
    }


@pytest.fixture(scope="module")
def expected(store):
    """What the online store answers as of each label."""
    columns = {name: [*values] for name, values in recent().items()}
    columns["recent_job_timestamps"] = [
        [time.isoformat() for time in times] for times in columns["recent_job_timestamps"]
    ]
    asked = {
        "member_id": MEMBERS,
        **columns,
        "request_timestamp": [time.isoformat() for time in LABELS],
    }
    # Of the member whose label is older than the online row, the row of that time is joined.
    answer = store.get_online_features(FEATURES, asked).to_dict()
    assert [time.timestamp() for time in answer["last_activity_at"][1:]] == [
        time.timestamp() - 60 for time in LABELS[1:]
    ]
    return answer


def joined(store, frame, features=FEATURES, prefix="", **options):
    table = store.get_historical_features(frame, features, **options).to_df()
    table = table.set_index("member_id").loc[MEMBERS]
    times = table[f"{prefix}last_activity_at"]
    assert times.tolist() == [time - pd.Timedelta(minutes=1) for time in LABELS]
    return table[f"{prefix}activity_embedding"].tolist()


def assert_expected(vectors, expected):
    for got, wanted in list(zip(vectors, expected["activity_embedding"], strict=True))[1:]:
        assert got == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("column", ["event_timestamp", "label_time"])
def test_in_every_store_the_cut_off_is_the_label_whatever_its_name(
    repo, expected, kind, column, monkeypatch
):
    monkeypatch.chdir(repo.path)  # Feast's own DuckDB store looks for relative paths there
    assert_expected(joined(store_of(repo, kind), labels(column)), expected)


@pytest.mark.parametrize("zone", [None, "America/New_York"])
@pytest.mark.parametrize("unit", ["ns", "us", "s"])
def test_in_any_unit_and_zone(store, expected, zone, unit):
    frame = labels("label_time")
    times = frame["label_time"].dt.tz_convert(zone)
    frame["label_time"] = times.dt.as_unit(unit)
    assert_expected(joined(store, frame), expected)


@pytest.mark.parametrize("name", ["embedding", "created_timestamp", "known_at", "job_id"])
def test_called_like_a_feature_or_a_source_s_column(store, expected, name):
    assert_expected(joined(store, labels(name)), expected)


def test_the_time_of_the_request_may_be_the_only_time_of_the_labels(store, expected):
    frame = labels("label_time").drop(columns="request_timestamp")
    frame = frame.rename(columns={"label_time": "request_timestamp"})
    assert_expected(joined(store, frame), expected)


def test_other_times_beside_the_label_are_not_the_cut_off(store, expected):
    late = pd.Series([at(100).replace(tzinfo=None)] * 3)
    assert_expected(joined(store, labels("event_timestamp", label_time=late)), expected)
    # Feast looks for one column of the type datetime64; datetimes as objects are none.
    frame = labels("label_time", seen=late.astype(object), note=None)
    assert_expected(joined(store, frame), expected)


def test_a_feature_called_event_timestamp_is_not_the_cut_off(store, expected):
    frame = labels("label_time")
    assert_expected(joined(store, frame, [*FEATURES, "clicks:event_timestamp"]), expected)
    frame = frame.assign(event_timestamp_of_clicks=1)
    more = [
        *FEATURES,
        "clicks:event_timestamp",
        "job_activity_sequence:last_activity_at",
        "job_activity_embedding_unweighted_average_realtime:last_activity_at",
    ]
    got = joined(store, frame, more, prefix=f"{VIEW}__", full_feature_names=True)
    assert_expected(got, expected)


def test_an_online_request_with_a_column_called_event_timestamp_is_no_join(store, expected):
    asked = {"member_id": MEMBERS, **{name: [None] * 3 for name in recent()}}
    asked |= {"request_timestamp": [at(4).isoformat()] * 3, "event_timestamp": ["x", "y", "z"]}
    features = [*FEATURES, "doubled_clicks:doubled"]
    answer = store.get_online_features(features, asked).to_dict()
    assert (
        answer["activity_count"]
        == store.get_online_features(FEATURES, asked).to_dict()["activity_count"]
    )


def test_a_cut_off_of_the_request_counts_where_it_is_before_the_label(store):
    minutes = pd.Timedelta(minutes=2)
    for form in (lambda time: time.isoformat(), lambda time: time.to_pydatetime()):
        before = pd.Series([form(pd.Timestamp(time) - minutes) for time in LABELS], dtype=object)
        frame = labels("label_time", request_timestamp=before)
        table = store.get_historical_features(frame, FEATURES).to_df()
        last = table["last_activity_at"].tolist()
        assert all(time < label - minutes for time, label in zip(last, LABELS, strict=True))


@pytest.mark.parametrize("null", [[0], [0, 1, 2]], ids=["one", "all"])
@pytest.mark.parametrize("column", ["event_timestamp", "label_time"])
def test_a_label_without_a_time_is_refused_by_row_and_column(store, column, null):
    frame = labels(column)
    frame.loc[null, column] = pd.NaT
    with pytest.raises(InvalidRequest, match=rf"row 0: the label's time '{column}' .*: null"):
        store.get_historical_features(frame, FEATURES).to_df()


def test_no_labels_are_no_rows(store):
    for column in ("event_timestamp", "label_time"):
        assert store.get_historical_features(labels(column).iloc[:0], FEATURES).to_df().empty


def test_what_feast_does_not_call_for_a_request_or_a_join_is_refused(store):
    view = store.get_on_demand_feature_view(VIEW)
    columns = labels("label_time").to_dict("list")
    with pytest.raises(InvalidInput, match="expected to be called by Feast"):
        view.feature_transformation.udf(columns)
    # As Feast's transformation server does, which knows neither labels nor their times.
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with pytest.raises(InvalidRequest, match="one column of times, best called event_timestamp"):
        view.transform_arrow(table)
