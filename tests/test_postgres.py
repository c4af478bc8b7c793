"""A repo whose sources and snapshots are in PostgreSQL, beside the same data in files."""

import signal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from activity_embeddings.training.models import CNN, GeometricDecay, UnweightedAverage
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.batch import engine
from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.forget import forget, traces_of
from activity_embeddings.transformations.offline import sources
from activity_embeddings.transformations.offline.sinks.places import sink_of
from activity_embeddings.transformations.online.push import SequenceWriter
from activity_embeddings.transformations.spec import ActivitySpec
from support.feast_repo import (
    at,
    events_table,
    interval,
    make_encoder_repo,
    run_killed,
    small_data,
    small_repo,
)
from support.item_encoders import package_encoder, postings_table, small_postings
from support.postgres_repo import (
    ORDERED,
    STOCK,
    in_utc,
    move_to_postgres,
    serve_from_postgres,
    tables,
)

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

SEQUENCE = "job_activity_sequence"
VIEWS = [
    SEQUENCE,
    *(f"job_activity_embedding_{m}" for m in ("unweighted_average", "geometric_decay", "cnn")),
]
FEATURES = [
    f"{SEQUENCE}:activity_count",
    f"{SEQUENCE}:activity_job_ids",
    f"{SEQUENCE}:last_activity_at",
    "job_activity_embedding_geometric_decay:apply_embedding",
    "job_embedding:embedding",
]
SINK = ("activity_embeddings.transformations.offline.sinks.postgres", "PostgresSink")


@pytest.fixture(scope="module")
def files(tmp_path_factory, models):
    """The data in files, published."""
    repo = small_repo(tmp_path_factory.mktemp("files") / "repo", models)
    repo.publish(at(0), at(3))
    return repo


@pytest.fixture(scope="module")
def published(tmp_path_factory, models, postgres):
    """The data in PostgreSQL, published; not to be changed."""
    database = postgres.new()
    repo = small_repo(tmp_path_factory.mktemp("postgres") / "repo", models)
    move_to_postgres(repo, database)
    repo.run("apply")
    assert tables(database) == {}
    repo.materialize(at(0), at(3))
    return repo, database


@pytest.fixture
def repo_in(tmp_path, models, database):
    """Return a function that makes a repo in a database of its own."""

    def make(kind=STOCK, **data):
        repo = small_repo(tmp_path / "repo", models, **data)
        return move_to_postgres(repo, database, kind), database

    return make


def kept(database):
    """Return every row of the snapshots, and the marks but for the names of online stores."""
    found = tables(database)
    with database.connect() as connection:
        marks = "SELECT snapshots_of, as_of FROM activity_embeddings.published ORDER BY 1"
        found["activity_embeddings.published"] = connection.execute(marks).fetchall()
    return found


def views_of(repo):
    store = repo.store
    return [(store.get_feature_view(name), store.config) for name in VIEWS]


def test_online_and_stored_values_are_those_of_files(files, published):
    repo, _ = published
    assert repo.online_rows() == files.online_rows()
    for ours, theirs in zip(views_of(repo), views_of(files), strict=True):
        here, there = sink_of(*ours), sink_of(*theirs)
        assert here.committed() == there.committed() and len(here.committed()) == 3
        for as_of in here.committed():
            assert here.facts(as_of) == there.facts(as_of)
            rows = there.read(as_of).replace_schema_metadata(None)
            assert here.read(as_of).equals(rows)
    assert not check(repo.store).differences


def labels():
    """Labels that repeat, are exactly as of a snapshot, before the first and older than the ttl."""
    random = np.random.default_rng(1)
    days = [*random.uniform(-3, 8, 200), *range(4), *random.uniform(20, 40, 60)]
    frame = pd.DataFrame(
        {
            "member_id": random.integers(1, 45, len(days)),
            "job_id": random.integers(1, 35, len(days)),
            "event_timestamp": [at(round(float(day), 1)) for day in days],
            "label": np.arange(len(days)),
        }
    )
    exact = frame.iloc[:160].assign(event_timestamp=[at(day) for day in (1, 2, 3, 31)] * 40)
    return pd.concat([frame, exact.assign(label=-1 - exact["label"]), frame.iloc[::-3]])


def test_stock_feast_joins_the_values_that_it_joins_of_files(files, published):
    repo, _ = published
    asked = labels()
    want = files.store.get_historical_features(asked, FEATURES).to_df()
    got = repo.store.get_historical_features(asked, FEATURES).to_df()
    assert want["activity_count"].isna().sum() > 60 and want["activity_count"].notna().sum() > 200
    order = ["label", "member_id"]
    got, want = (frame.sort_values(order, ignore_index=True) for frame in (got, want))
    for column in ("event_timestamp", "last_activity_at"):
        assert got[column].dt.tz is None  # as Feast's store gives times: UTC, and not said
        got[column] = got[column].dt.tz_localize("UTC")
    pd.testing.assert_frame_equal(got, want, check_dtype=False)


def test_ours_gives_them_in_the_order_asked_with_their_zone(files, repo_in):
    repo, database = repo_in(ORDERED)
    repo.publish(at(0), at(3))
    with database.connect() as connection:
        # As the planner joins large tables: by merging what is sorted.
        for setting in ("enable_hashjoin", "enable_nestloop"):
            connection.execute(f"ALTER DATABASE {database.database} SET {setting} = off")
    asked = labels()
    want = files.store.get_historical_features(asked, FEATURES).to_df()
    got = repo.store.get_historical_features(asked, FEATURES).to_df()
    pd.testing.assert_frame_equal(got, want, check_dtype=False)
    repo.edit("feature_store.yaml", ORDERED, STOCK)
    stock = repo.store.get_historical_features(asked, FEATURES).to_df()
    assert sorted(stock["label"]) == sorted(asked["label"])
    assert stock["label"].tolist() != asked["label"].tolist()


def test_values_that_are_there_twice_do_not_multiply_labels(repo_in):
    """Feast's own join gives a label once for each."""
    repo, database = repo_in(ORDERED)
    repo.run("apply")
    with database.connect() as connection:
        connection.execute(
            "INSERT INTO job_embeddings SELECT * FROM job_embeddings WHERE job_id = 1"
        )
    asked = pd.DataFrame(
        {"job_id": [2, 1, 2], "event_timestamp": pd.to_datetime([at(1)] * 3), "label": [0, 1, 2]}
    )
    joined = repo.store.get_historical_features(asked, ["job_embedding:embedding"]).to_df()
    assert joined["label"].tolist() == [0, 1, 2]
    repo.edit("feature_store.yaml", ORDERED, STOCK)
    joined = repo.store.get_historical_features(asked, ["job_embedding:embedding"]).to_df()
    assert sorted(joined["label"]) == [0, 1, 1, 2]


def test_materializing_again_changes_nothing(repo_in):
    repo, database = repo_in()
    repo.publish(at(0), at(2))
    before, online = tables(database), repo.online_rows()
    assert "no files new or changed" in repo.materialize(at(0), at(2)).output
    assert tables(database) == before and repo.online_rows() == online


@pytest.mark.process
@pytest.mark.parametrize(
    "stage",
    [
        (*SINK, "commit", 1, "before"),
        (*SINK, "commit", 2, "after"),
        (*SINK, "commit", 6, "before"),
        (*SINK, "mark_published", 2, "before"),
    ],
    ids=["before the first", "between views", "between snapshots", "during the push"],
)
def test_a_killed_run_is_finished_by_the_next(repo_in, published, stage):
    repo, database = repo_in()
    repo.publish(at(0), at(1))
    killed = run_killed(repo, stage, at(0), at(3))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    with database.connect() as connection:
        # All views of a snapshot are there, or none is.
        count = "SELECT count(*) FROM activity_embeddings.snapshots GROUP BY as_of"
        assert {number for (number,) in connection.execute(count)} == {len(VIEWS)}
    repo.materialize(at(0), at(3))
    finished, theirs = published
    assert kept(database) == kept(theirs)
    assert repo.online_rows() == finished.online_rows()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE events SET action = 'LOOK' WHERE member_id = 3", "LOOK"),
        ("UPDATE events SET event_timestamp = NULL WHERE member_id = 3", "no nulls"),
        ("UPDATE events SET member_id = NULL WHERE member_id = 3", "no nulls"),
        ("UPDATE job_embeddings SET embedding = embedding[2:]", "64"),
        ("ALTER TABLE events ALTER action TYPE jsonb USING to_jsonb(action)", "Received: jsonb"),
        ("ALTER TABLE events RENAME action TO what", "'action' is missing"),
        ("DROP TABLE events", 'relation "events" does not exist'),
    ],
)
def test_bad_input_leaves_the_tables_as_they_were(repo_in, statement, words):
    repo, database = repo_in()
    repo.publish(at(0), at(1))
    with database.connect() as connection:
        connection.execute(statement)
    before, online = tables(database), repo.online_rows()
    outcome = repo.feast(*interval(at(1), at(2)))
    assert outcome.code == 1
    (error,) = [line for line in outcome.output.splitlines() if line.startswith("Error: ")]
    assert words in error and "Traceback" not in outcome.output
    assert tables(database) == before and repo.online_rows() == online


def test_rows_do_not_depend_on_how_many_events_are_held(files, repo_in, monkeypatch):
    """The server gives them in the order of members, and no file is written."""
    monkeypatch.setattr(engine, "MIB", 1)  # 512 bytes of events
    monkeypatch.delattr(sources, "spilled_parts")
    repo, database = repo_in()
    repo.publish(at(0), at(3))
    assert repo.online_rows() == files.online_rows()
    before, online = kept(database), repo.online_rows()
    with database.connect() as connection:
        last = "(SELECT max(member_id) FROM events)"
        connection.execute(f"UPDATE events SET action = 'LOOK' WHERE member_id = {last}")
    for start, end in ((2, 3), (-1, 3)):  # one cut-off, and several
        outcome = repo.feast(*interval(at(start), at(end)))
        assert outcome.code == 1 and "LOOK" in outcome.output
        assert kept(database) == before and repo.online_rows() == online


def test_teardown_keeps_snapshots_and_a_new_start_fills_the_online_store(repo_in):
    repo, database = repo_in()
    repo.publish(at(0), at(2))
    before, online = tables(database), repo.online_rows()
    repo.run("teardown")
    after = tables(database)
    assert after.pop("activity_embeddings.published") == []
    del before["activity_embeddings.published"]
    assert after == before
    repo.publish(at(0), at(2))
    assert repo.online_rows() == online


def test_vectors_that_an_encoder_makes_are_those_of_files(tmp_path, database):
    models = tmp_path / "models"
    encoder = package_encoder(models / "item_encoder")
    spec, vector_spec = ActivitySpec(), encoder.vector_spec
    for name, model in {
        "unweighted_average": UnweightedAverage(),
        "geometric_decay": GeometricDecay(r=0.8),
        "cnn": CNN(residual=False),
    }.items():
        facts = {"name": name, "version": "1", "spec": spec, "vector_spec": vector_spec}
        package_model(model.build(spec, vector_spec), models / name, **facts)
    events, _ = small_data(members=20, days=12)
    both = [
        make_encoder_repo(
            tmp_path / name, models, events_table(events), postings_table(small_postings())
        )
        for name in ("files", "postgres")
    ]
    files, repo = both
    move_to_postgres(repo, database, ORDERED, "job_postings")
    for each in both:
        each.publish(at(0), at(2))
        each.materialize(at(2), at(6))  # a posting of day 5 gives an item a second vector
    assert repo.online_rows() == files.online_rows()
    asked = labels()[["job_id", "event_timestamp", "label"]]
    want, got = (
        each.store.get_historical_features(asked, ["job_embedding:embedding"]).to_df()
        for each in both
    )
    assert want["embedding"].notna().sum() > 200
    pd.testing.assert_frame_equal(got, want, check_dtype=False)


def test_a_source_may_be_a_query_with_names_and_types_of_its_own(repo_in, files):
    """Times without a zone are UTC, whatever the zone of the session."""
    repo, database = repo_in()
    with database.connect() as connection:
        connection.execute("CREATE TYPE deed AS ENUM ('APPLY', 'SAVE', 'DISMISS')")
        connection.execute(
            "CREATE TABLE clicks AS SELECT member_id::int AS who, job_id, action::deed AS action, "
            "event_timestamp AT TIME ZONE 'UTC' AS seen FROM events"
        )
        connection.execute("DROP TABLE events")
    repo.edit(
        "sources.py",
        '    table="events",\n    timestamp_field="event_timestamp",\n',
        '    query="SELECT * FROM clicks WHERE who > 0",\n    timestamp_field="seen",\n'
        '    field_mapping={"who": "member_id"},\n',
    )
    repo.publish(at(0), at(3))
    assert repo.online_rows() == files.online_rows()


@pytest.mark.parametrize("own", [False, True], ids=["as in files", "types of its own"])
def test_pushed_events_are_rows_of_the_table(repo_in, own):
    repo, database = repo_in()
    if own:
        with database.connect() as connection:
            for statement in (
                "CREATE TYPE deed AS ENUM ('APPLY', 'SAVE', 'DISMISS')",
                "ALTER TABLE events ALTER action TYPE deed USING action::deed, "
                "ALTER event_timestamp TYPE timestamp USING event_timestamp AT TIME ZONE 'UTC', "
                "ADD page text, ADD loaded timestamptz DEFAULT now()",
            ):
                connection.execute(statement)
    repo.publish(at(0), at(3))
    new = events_table([(99, 3, "APPLY", at(3.2)), (99, 4, "SAVE", at(3.3))])
    new = new.append_column("page", pa.array(["home", None]))
    assert SequenceWriter(repo.store).push(new).new == 2
    with database.connect() as connection:
        query = "SELECT job_id, action::text FROM events WHERE member_id = 99 ORDER BY 1"
        assert connection.execute(query).fetchall() == [(3, "APPLY"), (4, "SAVE")]
        if own:
            query = "SELECT page, loaded IS NULL FROM events WHERE member_id = 99 ORDER BY 1"
            assert connection.execute(query).fetchall() == [("home", False), (None, False)]
    repo.materialize(at(3), at(4))
    assert not check(repo.store).differences


def test_a_table_that_does_not_take_events_is_named_and_nothing_is_pushed(repo_in):
    repo, database = repo_in()
    repo.publish(at(0), at(3))
    with database.connect() as connection:
        connection.execute("ALTER TABLE events ADD page int")
        connection.execute("UPDATE events SET page = 1")
        connection.execute("ALTER TABLE events ALTER page SET NOT NULL")
    before = repo.online_rows()
    new = events_table([(99, 3, "APPLY", at(3.2)), (99, 4, "SAVE", at(3.3))])
    with pytest.raises(InvalidInput, match=r'takes the events. Received: null value in column "pa'):
        SequenceWriter(repo.store).push(new)
    repo.edit("sources.py", 'table="events"', 'query="SELECT * FROM events"')
    repo.run("apply")
    with pytest.raises(InvalidInput, match=r"expected a table, .* Received: a query. Log these"):
        SequenceWriter(repo.store).push(new)
    assert repo.online_rows() == before
    with database.connect() as connection:
        query = "SELECT count(*) FROM events WHERE member_id = 99"
        assert connection.execute(query).fetchone() == (0,)


def test_members_are_forgotten_in_every_table(repo_in):
    repo, database = repo_in()
    repo.publish(at(0), at(3))
    with pytest.raises(InvalidInput, match="expected no events of the members to forget"):
        forget(repo.store, [3])
    with database.connect() as connection:
        connection.execute("DELETE FROM events WHERE member_id = 3")
    assert traces_of(repo.store, [3]).snapshots > 0
    assert forget(repo.store, [3]).online == 4
    assert not traces_of(repo.store, [3]).any
    repo.materialize(at(3), at(4))
    assert not traces_of(repo.store, [3]).any and not check(repo.store).differences


def test_a_backfill_from_long_ago_begins_at_the_first_event(repo_in):
    repo, database = repo_in(members=3)
    repo.run("apply")
    repo.materialize(at(-20000), at(-15))
    with database.connect() as connection:
        moments = connection.execute("SELECT min(as_of) FROM activity_embeddings.snapshots")
        first = connection.execute("SELECT min(event_timestamp) FROM events").fetchone()
        assert moments.fetchone() > first


def refusal(repo):
    outcome = repo.feast("apply")
    assert outcome.code == 1 and "Traceback" not in outcome.output
    (error,) = [line for line in outcome.output.splitlines() if line.startswith("Error: ")]
    return error


def test_snapshots_elsewhere_than_the_offline_store_reads_are_refused(repo_in):
    repo, _ = repo_in()
    repo.edit("views.py", "    snapshots=PostgreSQLSnapshots(),\n", "")
    assert "`snapshots=PostgreSQLSnapshots()`" in refusal(repo)
    repo.edit("views.py", "    repo=REPO,\n", "    repo=REPO, snapshots=PostgreSQLSnapshots(),\n")
    settings = repo.path / "feature_store.yaml"
    text = settings.read_text()
    start, end = text.index("offline_store:"), text.index("batch_engine:")
    duckdb = "offline_store:\n  type: activity_embeddings.OrderedDuckDBOfflineStore\n"
    settings.write_text(text[:start] + duckdb + text[end:])
    assert "Received: activity_embeddings.OrderedDuckDBOfflineStore" in refusal(repo)


@pytest.mark.parametrize(
    ("table", "column", "words"),
    [
        ("events", "member_id TYPE text", "'member_id' should be int64, as the feature repo"),
        ("events", "action TYPE bytea USING ''", "Received: bytea"),
        ("events", "event_timestamp TYPE date", "should be a timestamp in UTC. Received: date"),
        ("job_embeddings", "job_id TYPE numeric", "Received: numeric"),
        ("job_embeddings", "embedding TYPE text", "should be list<float>. Received: text"),
    ],
)
def test_apply_refuses_columns_of_other_types(repo_in, table, column, words):
    repo, database = repo_in(members=3)
    with database.connect() as connection:
        connection.execute(f"ALTER TABLE {table} ALTER {column}")
    assert words in refusal(repo)


def test_another_schema_is_a_change_of_the_views(repo_in):
    repo, database = repo_in(members=3)
    repo.publish(at(0), at(1))
    repo.edit("views.py", "PostgreSQLSnapshots()", 'PostgreSQLSnapshots("Other")')
    repo.publish(at(0), at(1))
    assert {table.split(".")[0] for table in tables(database)} == {'"Other"', "activity_embeddings"}


def test_a_name_that_no_table_can_have_is_refused_and_any_version_is_fine():
    from activity_embeddings import PostgreSQLSnapshots

    for schema, view in [("", "v"), ("s", "v" * 61), ('s"', "v")]:
        with pytest.raises(InvalidInput, match="Received: "):
            PostgreSQLSnapshots(schema).source(view, "1", None)
    source = PostgreSQLSnapshots("s").source("v", "1.0; DROP", None)
    assert source.get_table_query_string() == '"s"."v__v1_2e_0_3b__20_DROP"'


def test_everything_may_lie_in_one_database(repo_in, files):
    """Sources, snapshots, online rows and the registry, as of a team that has only PostgreSQL."""
    repo, database = repo_in(ORDERED)
    repo.edit(
        "feature_store.yaml",
        "registry: data/registry.db",
        f"registry:\n  registry_type: sql\n  path: {database.address}",
    )
    serve_from_postgres(repo, database)
    repo.run("apply")
    refused = repo.feast(*interval(at(0), at(3)))
    assert refused.code == 1
    assert "expected sessions in UTC" in refused.output and "America/New_York" in refused.output
    assert tables(database) == {}
    in_utc(database)
    repo.materialize(at(0), at(3))
    members = [{"member_id": member} for member in range(1, 43)]
    features = [name for name in FEATURES if not name.startswith("job_embedding")]
    want, got = (each.store.get_online_features(features, members) for each in (files, repo))
    assert got.to_dict() == want.to_dict()
    assert not check(repo.store).differences
    assert SequenceWriter(repo.store).push(events_table([(5, 3, "APPLY", at(3.2))])).new == 1
    repo.materialize(at(3), at(4))
    assert not check(repo.store).differences
    assert not list(repo.data.glob("*.db"))
    with database.connect() as connection:
        connection.execute("DELETE FROM events WHERE member_id = 5")
    assert forget(repo.store, [5]).online == 4
    assert not traces_of(repo.store, [5]).any
    assert not check(repo.store).differences
