"""Sources in Spark, and training joins by it, beside the same data in files.

One session for all, as Feast has it: in a zone whose clocks went back on 2024-03-24, at 03:00 UTC.
"""

import re
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

from activity_embeddings import ActivitySpec, SequenceWriter
from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.errors import InvalidData, InvalidInput
from activity_embeddings.transformations.feast_compat.spark import session_of
from activity_embeddings.transformations.offline import sources
from activity_embeddings.transformations.offline.columns import RowsAsked
from activity_embeddings.transformations.offline.sources import event_parts
from activity_embeddings.transformations.offline.spark import stream
from activity_embeddings.transformations.offline.spark_tables import SparkTable
from support.feast_repo import (
    at,
    events_table,
    make_encoder_repo,
    make_repo,
    small_data,
    us,
    vectors_table,
)
from support.item_encoders import package_all, postings_table, small_postings

pytestmark = [pytest.mark.slow, pytest.mark.spark]

DUCKDB = (
    "  type: activity_embeddings.OrderedDuckDBOfflineStore    # duckdb, rows in request order\n"
)
SPARK = """\
  type: activity_embeddings.OrderedSparkOfflineStore
  spark_conf:
    spark.master: local[1]
    spark.driver.memory: 600m
    spark.driver.extraJavaOptions: -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
    spark.sql.codegen.wholeStage: "false"
    spark.sql.codegen.factoryMode: NO_CODEGEN
    spark.sql.adaptive.enabled: "false"
    spark.ui.showConsoleProgress: "false"
    spark.sql.session.timeZone: America/Asuncion
    spark.sql.shuffle.partitions: "2"
    spark.sql.autoBroadcastJoinThreshold: "-1"
    spark.sql.warehouse.dir: {warehouse}
    spark.ui.enabled: "false"
"""
IMPORT = """\
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
"""
ZONE_ENDS = 23 + 3 / 24
"""The day, and hour, at which the hour before comes again."""
SEQUENCE, EMBEDDING = "job_activity_sequence", "job_activity_embedding_geometric_decay"
FEATURES = [
    f"{SEQUENCE}:activity_count",
    f"{SEQUENCE}:activity_job_ids",
    f"{SEQUENCE}:last_activity_at",
    f"{EMBEDDING}:apply_embedding",
    "job_embedding:embedding",
]


def use_source(repo, file, named):
    """Have a definition name a source in Spark where it names parquet files."""
    path = repo.path / file
    text, count = re.subn(
        r"= FileSource\(\n    name=(\S+)\n.*?\n\)\n",
        rf"= SparkSource(name=\1 {named})\n",
        path.read_text(),
        count=1,
        flags=re.S,
    )
    assert count == 1
    before, _, after = text.partition("\nfrom ")
    path.write_text(f"{before}\n{IMPORT}from {after}")


def read_from_spark(repo, warehouse):
    """Have a repo read its events by a query and its item vectors from a table."""
    repo.edit("feature_store.yaml", DUCKDB, SPARK.format(warehouse=warehouse))
    use_source(
        repo,
        "sources.py",
        'query="SELECT * FROM clicks WHERE who > 0", timestamp_field="seen", '
        'field_mapping={"who": "member_id", "what": "action"}',
    )
    use_source(repo, "item_vectors.py", 'table="vectors", timestamp_field="event_timestamp"')


@pytest.fixture(scope="module")
def repos(tmp_path_factory, models):
    """A repo with files, and one with the same rows in Spark; both published.

    Spark joins as it does large tables: by sorting them.
    """
    folder = tmp_path_factory.mktemp("spark")
    events, vectors = small_data(members=20, days=30)
    # Within the hour that comes twice, and to the microsecond around a cut-off.
    events += [(21, i + 1, "SAVE", at(ZONE_ENDS + i / 48)) for i in range(-3, 3)]
    events += [(22, 1, "APPLY", at(23)), (22, 2, "APPLY", at(23) - timedelta(microseconds=1))]
    made = [
        make_repo(folder / name, models, events_table(events), vectors_table(vectors))
        for name in ("files", "spark")
    ]
    read_from_spark(made[1], folder / "warehouse")
    session = session_in(made[1])
    rows = events_table(events).rename_columns(["who", "job_id", "what", "seen"])
    session.createDataFrame(rows).write.saveAsTable("clicks")
    session.createDataFrame(vectors_table(vectors)).write.saveAsTable("vectors")
    for repo in made:
        repo.publish(at(21), at(ZONE_ENDS))
    yield made
    session.stop()


def session_in(repo):
    return session_of(repo.store.config.offline_store)


def test_what_is_published_is_that_of_files(repos):
    files, spark = repos
    assert spark.stores() == files.stores()
    assert not check(spark.store).differences


def labels():
    """Labels that repeat, of strangers, before the first value, as of a cut-off, past the ttl."""
    random = np.random.default_rng(1)
    days = [*random.uniform(20, 30, 100), *random.uniform(48, 60, 20), 22, 23, ZONE_ENDS]
    frame = pd.DataFrame(
        {
            "note": [f"label {i}" if i % 3 else None for i in range(len(days))],
            "event_timestamp": [at(day) for day in days],
            "member_id": random.integers(1, 24, len(days)),
            "job_id": random.integers(1, 35, len(days)),
            "label": np.arange(len(days)),
        },
        index=random.integers(0, 5, len(days)),
    )
    twice = frame.iloc[:3].assign(
        member_id=21, event_timestamp=[at(ZONE_ENDS + day) for day in (-0.02, 1 / 24 - 0.02, 0)]
    )
    exact = frame.iloc[:9].assign(
        member_id=[20, 21, 22] * 3, event_timestamp=np.repeat([at(22), at(23), at(ZONE_ENDS)], 3)
    )
    return pd.concat([frame, frame.iloc[::-3], frame.iloc[:20].assign(job_id=3), twice, exact])


def test_events_in_parts_are_those_of_files(repos, tmp_path, monkeypatch):
    """Spark gives them in the order of members, so that this machine's disk is not needed."""
    found = []
    for repo in repos:
        if found:
            monkeypatch.delattr(sources, "spilled_parts")
        store = repo.store
        parts = event_parts(
            store.config,
            None,
            [store.get_feature_view("job_activity")],
            ActivitySpec(),
            start=us(at(5)),
            end=us(at(23)),
            budget=3_000,
            folder=tmp_path,
        )
        rows = []
        for number, (_, events) in enumerate(parts):
            members = events.member_ids.take(events.member).to_pylist()
            rows += [(number > 0, *row) for row in zip(members, events.time.tolist(), strict=True)]
        found.append(rows)
    files, spark = found
    assert [row[1:] for row in spark] == [row[1:] for row in files]
    last = (True, 22, us(at(23)) - 1)  # not of the first part
    assert spark[-1] == files[-1] == last


@pytest.mark.parametrize("asked", ["as they are", "naive, of another name", "elsewhere"])
def test_joins_give_every_label_in_its_place_what_those_of_files_give(repos, asked):
    frame = labels()
    if asked == "naive, of another name":
        frame["applied_at"] = frame.pop("event_timestamp").dt.tz_localize(None)
    if asked == "elsewhere":
        frame["event_timestamp"] = frame["event_timestamp"].dt.tz_convert("America/New_York")
    full = asked == "elsewhere"
    before = frame.copy(deep=True)
    want, got = (
        repo.store.get_historical_features(frame, FEATURES, full_feature_names=full).to_df()
        for repo in repos
    )
    pd.testing.assert_frame_equal(frame, before)
    embedding = f"{EMBEDDING}__apply_embedding" if full else "apply_embedding"
    assert 20 < want[embedding].notna().sum() < len(want)
    pd.testing.assert_frame_equal(got, want, check_dtype=False)


def test_a_request_may_be_a_query_of_spark(repos):
    files, spark = repos
    frame = labels().drop(columns="note").dropna()
    order, session = ["label", "job_id", "event_timestamp"], session_in(spark)
    session.createDataFrame(pa.Table.from_pandas(frame, preserve_index=False)).createTempView(
        "asked"
    )
    job = spark.store.get_historical_features("SELECT * FROM asked", FEATURES)
    assert job.to_spark_df().columns[:4] == list(frame.columns)
    got = job.to_df().sort_values(order, ignore_index=True)
    want = files.store.get_historical_features(frame, FEATURES).to_df()
    want = want.sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(got, want, check_dtype=False)


def test_on_demand_views_are_computed_for_every_label(repos):
    recent = ["recent_job_ids", "recent_job_actions", "recent_job_timestamps", "request_timestamp"]
    frame = labels().assign(**dict.fromkeys(recent))
    features = [FEATURES[0], f"{EMBEDDING}_realtime:apply_embedding"]
    want, got = (repo.store.get_historical_features(frame, features).to_df() for repo in repos)
    pd.testing.assert_frame_equal(got, want, check_dtype=False)


def table_of(repo, query):
    """Rows of a query as the package reads them."""
    source = SparkSource(name="rows", query=query, timestamp_field="t")
    return SparkTable(source, repo.store.config, "rows")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT i, timestamp_micros(us) AS t FROM {}",
        # Of times without a zone, as the documentation says.
        "SELECT i, timestamp(string(t) || '+00:00') AS t FROM (SELECT i, timestamp_ntz"
        "'1970-01-01' + make_dt_interval(0, 0, 0, us / decimal(1000000)) AS t FROM {})",
    ],
    ids=["moments", "without a zone"],
)
def test_times_come_as_they_are_in_the_hour_that_comes_twice(repos, query):
    """As instants, to the microsecond; both hours are called 23:30 in the zone of the session."""
    moments = [
        us(at(ZONE_ENDS)) + us_ for us_ in (-1_800_000_001, -1_800_000_000, 0, 1_799_999_999)
    ]
    values = ", ".join(f"({i}, {moment})" for i, moment in enumerate(moments))
    rows = table_of(repos[1], query.format(f"VALUES {values} AS rows(i, us)"))
    assert rows.earliest() == moments[0]
    for start, end in [(None, moments[3]), (moments[1], moments[2]), (moments[3], moments[3])]:
        read = rows.read(RowsAsked({"i": "i"}, ["i"], "at", start, end))
        assert read.schema.field("at").type == pa.timestamp("us", "UTC")
        want = [(i, moment) for i, moment in enumerate(moments) if (start or 0) <= moment <= end]
        got = zip(read["i"].to_pylist(), read["at"].cast("int64").to_pylist(), strict=True)
        assert sorted(got) == want


@pytest.mark.parametrize("by", [None, "id", "name"])
def test_rows_in_parts_are_all_there_once(repos, by):
    session = session_in(repos[1])
    # Some names have characters that UTF-8 and UTF-16 order differently.
    frame = session.sql(
        "SELECT id, array(1.5f * id, id) AS v, char(97 + id % 9) || element_at(array('\U0001f600', "
        "'\uff5e', 'Z', 'a'), int(id % 4 + 1)) AS name FROM range(0, 3000, 1, 3) ORDER BY id % 7"
    )
    parts = list(stream(frame, at_once=20_000, by=by))
    assert len(parts) > 4 and max(map(len, parts)) < 1500
    rows = pa.Table.from_batches(parts)
    if by is not None:
        ids = rows[by].to_pylist()
        assert ids == sorted(ids, key=str.encode if by == "name" else None)
    rows = rows.sort_by("id").to_pydict()
    assert rows["id"] == list(range(3000)) and rows["v"][7] == [10.5, 7.0]
    empty = pa.Table.from_batches(stream(frame.where("id < 0"), by=by))
    assert empty.schema.names == ["id", "v", "name"] and not len(empty)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("i", "'t' is missing. Received columns: i"),
        ("i, to_timestamp_ntz('2024-03-01') AS t", "naive"),
        ("i, date'2024-03-01' AS t", "column 't' should be a timestamp in UTC. Received: date"),
        ("i, CAST(NULL AS timestamp) AS t", "column 't' should hold no nulls"),
        (
            "CAST(i AS decimal(5)) AS i, now() AS t",
            "'i' should be of a type that can be read. Recei",
        ),
        ("CAST(i AS double) AS i, now() AS t", "column 'i' should be int64 or string. Recei"),
        ("none, now() AS t", "none"),
        ("int(raise_error('broken')) AS i, now() AS t", "broken"),
    ],
)
def test_what_cannot_be_read_is_named(repos, columns, words):
    rows = table_of(repos[1], f"SELECT {columns} FROM VALUES (1) AS rows(i)")
    with pytest.raises(InvalidData, match=re.escape(words)) as refused:
        rows.read(RowsAsked({"i": "i"}, ["i"], "t", None, us(at(9999))))
    assert str(refused.value).startswith("rows: ") and "\n" not in str(refused.value)


def test_files_are_those_of_the_repo_wherever_the_process_runs(repos, tmp_path, monkeypatch):
    files, spark = repos
    monkeypatch.chdir(tmp_path)
    source = SparkSource(
        name="rows",
        path="data/activity_events",
        file_format="parquet",
        timestamp_field="event_timestamp",
    )
    asked = RowsAsked({"member_id": "member_id"}, ["member_id"], "t", None, us(at(99)))
    read = SparkTable(source, spark.store.config, "rows").read(asked)
    assert len(read) == pq.read_table(files.events).num_rows


def refusal(repo):
    outcome = repo.feast("apply")
    assert outcome.code == 1 and "Traceback" not in outcome.output
    (error,) = [line for line in outcome.output.splitlines() if line.startswith("Error: ")]
    return error


@pytest.fixture
def applied(repos):
    """The repo in Spark; its definitions are put back."""
    _, spark = repos
    texts = {file: file.read_text() for file in spark.path.glob("*.*") if file.is_file()}
    yield spark
    for file, text in texts.items():
        file.write_text(text)
    spark.run("apply")


def test_feasts_own_store_is_refused_which_compares_two_zones(applied):
    ours = "type: activity_embeddings.OrderedSparkOfflineStore"
    applied.edit("feature_store.yaml", ours, "type: spark")
    assert f"Received: spark. Set `{ours}`" in refusal(applied)


def test_sources_in_spark_need_its_session(applied):
    text = (applied.path / "feature_store.yaml").read_text()
    start, end = text.index("offline_store:"), text.index("batch_engine:")
    (applied.path / "feature_store.yaml").write_text(
        f"{text[:start]}offline_store:\n{DUCKDB}{text[end:]}"
    )
    assert "expected an offline store of Spark in feature_store.yaml" in refusal(applied)


def test_apply_refuses_columns_of_other_types(applied):
    applied.edit("sources.py", "FROM clicks", "FROM (SELECT *, 1 AS x FROM clicks)")
    applied.run("apply")
    applied.edit(
        "sources.py",
        "SELECT *",
        "SELECT * EXCEPT (who), string(who) AS who",
    )
    assert "'who' should be int64, as the feature repo declares it. Received: string" in refusal(
        applied
    )


def test_push_refuses_a_table_of_spark_by_name(repos):
    _, spark = repos
    before = spark.online_rows()
    with pytest.raises(
        InvalidInput, match=r"to which events can be added.* Received: a SparkSource"
    ):
        SequenceWriter(spark.store).push(events_table([(5, 3, "APPLY", at(24))]))
    assert spark.online_rows() == before


def test_snapshots_in_iceberg_tables_are_joined(repos, applied):
    """As of a cluster, whose machines share an object store and no folder."""
    applied.edit(
        "views.py",
        "    repo=REPO,\n",
        '    repo=REPO,\n    snapshots=IcebergSnapshots(REPO / "data" / "lake"),\n',
    )
    applied.edit("views.py", "import ActivityDomain", "import ActivityDomain, IcebergSnapshots")
    applied.publish(at(21), at(ZONE_ENDS))
    frame = labels()
    want, got = (repo.store.get_historical_features(frame, FEATURES).to_df() for repo in repos)
    pd.testing.assert_frame_equal(got, want, check_dtype=False)


def test_values_that_are_there_twice_do_not_multiply_labels(applied):
    twice = "SELECT * FROM vectors UNION ALL SELECT * FROM vectors WHERE job_id = 1"
    applied.edit("item_vectors.py", 'table="vectors"', f'query="{twice}"')
    applied.run("apply")
    asked = pd.DataFrame({"job_id": [2, 1, 2], "event_timestamp": [at(1)] * 3, "label": [0, 1, 2]})
    joined = applied.store.get_historical_features(asked, ["job_embedding:embedding"]).to_df()
    assert joined["label"].tolist() == [0, 1, 2] and joined["embedding"].notna().all()


def test_postings_are_those_of_files(repos, tmp_path):
    package_all(tmp_path / "models")
    events, _ = small_data(seed=6, members=10, days=6)
    postings = postings_table(small_postings())
    stores = []
    for name in ("files", "spark"):
        repo = make_encoder_repo(
            tmp_path / name, tmp_path / "models", events_table(events), postings
        )
        if name == "spark":
            session_in(repos[1]).createDataFrame(postings).write.saveAsTable("postings")
            repo.edit("feature_store.yaml", DUCKDB, SPARK.format(warehouse=tmp_path))
            use_source(
                repo, "item_vectors.py", 'table="postings", timestamp_field="event_timestamp"'
            )
        repo.publish(at(0), at(3))
        stores.append(repo.stores())
    assert stores[1] == stores[0]


def test_what_a_join_needs_is_said(repos):
    _, spark = repos
    with pytest.raises(InvalidInput, match=r"expected labels as `entity_df`\. Received: none"):
        spark.store.get_historical_features(features=FEATURES, entity_df=None)
    asked = pd.DataFrame({"member": [1], "event_timestamp": [at(23)]})
    with pytest.raises(InvalidInput, match=r"a column 'member_id' in `entity_df`\. Received: mem"):
        spark.store.get_historical_features(asked, FEATURES)
