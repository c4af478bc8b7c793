"""A column of session ids, through the real command and stores: batch, request, push, training."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from activity_embeddings import InvalidRequest, Period, SequenceWriter, TrainingSource, entity_rows
from activity_embeddings.training.examples.held_out import Windows
from activity_embeddings.training.models import SessionDecay
from activity_embeddings.training.objectives import NextSession
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.batch import engine
from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.offline.sinks.places import sink_of
from support.feast_repo import (
    DIMENSION,
    OWN_VECTORS,
    at,
    events_table,
    make_repo,
    small_data,
    us,
    vectors_table,
)
from support.iceberg_repo import in_iceberg
from support.kinds import (
    JOBS,
    OF_JOBS,
    add_session_ids,
    repo_of_kinds,
    search_data,
    session_ids,
)
from support.postgres_repo import in_utc, move_to_postgres, serve_from_postgres
from support.reference import sequence, sessions_of, vector_as_of

pytestmark = pytest.mark.slow

T = at(4)
HALF_AN_HOUR = 30 * 60 * 1_000_000
R = 0.6
SEQUENCE, EMBEDDING = "job_activity_sequence", "job_activity_embedding_by_session"
VECTORS = [(item, us(time), vector) for item, time, vector in small_data()[1]]
MODELS_PY = """
from sources import REPO

from activity_embeddings import ActivityModel

MODELS = REPO / "models"
ACTIVITY_MODELS = [ActivityModel(MODELS / "by_session")]
"""
SERVICES_PY = """
from views import domain

by_session = domain.service("by_session", "by_session", realtime=True)
"""


def table_of(rows, sessions, kind):
    ids = [None if s is None else str(s) for s in sessions] if kind == pa.string() else sessions
    return events_table(rows).append_column("visit", pa.array(ids, kind))


ROWS = sorted(set(small_data()[0]))
EVENTS = list(zip(ROWS, session_ids(len(ROWS)), strict=True))
"""((member, item, action, time), session)."""


def expected_of(events, member, as_of):
    """Return (item, action id, time, session) of a member's sequence, and its embedding."""
    session_at = {(m, i, a, us(t)): session for (m, i, a, t), session in events}
    found, _ = sequence(
        [{"member_id": m, "job_id": i, "action": a, "time": us(t)} for (m, i, a, t), _ in events],
        VECTORS,
        member,
        as_of,
        window_us=JOBS.window_us,
        length=JOBS.length,
    )
    rows = [(i, a, t, session_at[member, i, a, t]) for i, a, t in found]
    of = sessions_of([(0, time, session) for *_, time, session in rows], HALF_AN_HOUR)
    in_turn = sorted({max(session) for session in of}, reverse=True)
    weighed = [
        (R ** in_turn.index(max(session)), vector_as_of(VECTORS, item, as_of))
        for (item, action, *_), session in zip(rows, of, strict=True)
        if action in JOBS.positive_actions
    ]
    total = sum(weight for weight, _ in weighed)
    embedding = sum((w * v for w, v in weighed), np.zeros(DIMENSION)) / (total or 1)
    ids = ["" if session is None else str(session) for *_, session in rows]
    return [(i, JOBS.vocabulary.index(a), t) for i, a, t, _ in rows], ids, embedding


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    package_model(
        SessionDecay(r=R, sessions=True).build(JOBS, OF_JOBS),
        folder / "by_session",
        name="by_session",
        version="1",
        spec=JOBS,
        vector_spec=OF_JOBS,
    )
    return folder


def repo_of_sessions(path, models, kind):
    """Return a repo whose events have session ids of a type, not applied yet."""
    repo = make_repo(
        path,
        models,
        table_of([row for row, _ in EVENTS], [session for _, session in EVENTS], kind),
        vectors_table(small_data()[1]),
        OWN_VECTORS,
    )
    repo.edit("sources.py", "from feast import FileSource", "from feast import Field, FileSource")
    repo.edit(
        "sources.py",
        "from feast.data_format import ParquetFormat",
        "from feast.data_format import ParquetFormat\nfrom feast.types import Int64, String",
    )
    declared = "String" if kind == pa.string() else "Int64"
    repo.edit(
        "sources.py",
        '    action="action",\n',
        f'    action="action",\n    session_id=Field(name="visit", dtype={declared}),\n',
    )
    (repo.path / "activity_models.py").write_text(MODELS_PY)
    (repo.path / "services.py").write_text(SERVICES_PY)
    return repo


@pytest.fixture(scope="module", params=[pa.int64(), pa.string()], ids=["int64", "string"])
def of_day_4(request, tmp_path_factory, models):
    kind = request.param
    repo = repo_of_sessions(tmp_path_factory.mktemp("sessions") / "repo", models, kind)
    repo.publish(at(2), T)
    repo.keep()
    return repo, kind


@pytest.fixture
def repo(of_day_4):
    """Published as of days 3 and 4."""
    return of_day_4[0].put_back()


@pytest.fixture
def kind(of_day_4):
    return of_day_4[1]


def stored(repo, members):
    """Return ((item, action, time), session ids, embedding) that the online store serves."""
    names = ["activity_job_ids", "activity_actions", "activity_times", "activity_session_ids"]
    answer = repo.store.get_online_features(
        [f"{SEQUENCE}:{name}" for name in names] + [f"{EMBEDDING}:activity_embedding"],
        [{"member_id": member} for member in members],
    ).to_dict()
    found = []
    for row in range(len(members)):
        items, actions, times, ids = (answer[name][row] or [] for name in names)
        embedding = answer["activity_embedding"][row]
        found.append((list(zip(items, actions, times, strict=True)), ids, embedding))
    return found


MEMBERS = list(range(1, 43))


def test_snapshots_and_online_rows_have_the_sessions_and_models_read_them(repo):
    store = repo.store
    rows = sink_of(store.get_feature_view(SEQUENCE), store.config).read(us(T)).to_pylist()
    for row in rows:
        _, ids, _ = expected_of(EVENTS, row["member_id"], us(T))
        assert row["activity_session_ids"] == ids
    overlapping = 0
    for member, (events, ids, embedding) in zip(MEMBERS, stored(repo, MEMBERS), strict=True):
        expected_events, expected_ids, expected = expected_of(EVENTS, member, us(T))
        assert (events, ids) == (expected_events, expected_ids)
        np.testing.assert_allclose(embedding or np.zeros(DIMENSION), expected, atol=2e-6)
        named = [session for session in ids if session]
        overlapping += len(named) > len(set(named)) and named != sorted(named)
    assert overlapping > 2


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("Iceberg", pa.string()),
        pytest.param("PostgreSQL", pa.int64(), marks=pytest.mark.postgres),
    ],
)
def test_iceberg_and_postgresql_keep_and_join_the_sessions(tmp_path, models, request, place, kind):
    repo = repo_of_sessions(tmp_path / "repo", models, kind)
    if place == "Iceberg":
        in_iceberg(repo)
    else:
        database = request.getfixturevalue("database")
        move_to_postgres(repo, database)
        serve_from_postgres(repo, database)
        in_utc(database)
    repo.publish(at(2), T)
    for member, (events, ids, embedding) in zip(MEMBERS, stored(repo, MEMBERS), strict=True):
        expected_events, expected_ids, expected = expected_of(EVENTS, member, us(T))
        assert (events, ids) == (expected_events, expected_ids)
        np.testing.assert_allclose(embedding or np.zeros(DIMENSION), expected, atol=2e-6)
    labels = pd.DataFrame({"member_id": MEMBERS, "event_timestamp": at(3.5)})
    joined = repo.store.get_historical_features(labels, [f"{SEQUENCE}:activity_session_ids"])
    found = joined.to_df().set_index("member_id")["activity_session_ids"]
    for member in MEMBERS:
        _, ids, _ = expected_of(EVENTS, member, us(at(3)))
        assert list([] if found[member] is None else found[member]) == ids
    assert not check(repo.store, sample=1000).differences


RECENT = {
    7: [(4, "APPLY", at(4.1), 2), (5, "SAVE", at(4.2), 9)],
    8: [(6, "APPLY", at(4.15), 0)],
    999: [(2, "SAVE", at(4.15), 1), (3, "DISMISS", at(4.16), 1)],
}


def recent_events(recent, *, ids=True):
    return [
        ((member, item, action, time), session if ids else None)
        for member, events in recent.items()
        for item, action, time, session in events
    ]


def request_of(recent, kind, *, ids=True):
    return {
        member: [
            (*event[:3], *([str(event[3]) if kind == pa.string() else event[3]] if ids else []))
            for event in events
        ]
        for member, events in recent.items()
    }


@pytest.mark.parametrize("ids", [True, False], ids=["with ids", "told by time"])
def test_requests_bring_sessions_or_the_time_tells_them(repo, kind, ids):
    members = [7, 8, 9, 999]
    rows = entity_rows(
        members,
        request_of(RECENT, kind, ids=ids),
        request_timestamp=at(4.5),
        session_ids=True,
    )
    assert (rows[0]["recent_job_session_ids"] is not None) is ids
    feature = f"{EMBEDDING}_realtime:activity_embedding"
    answer = repo.store.get_online_features([feature], rows).to_dict()
    until = [event for event in EVENTS if event[0][3] < T] + recent_events(RECENT, ids=ids)
    for member, got in zip(members, answer["activity_embedding"], strict=True):
        _, _, expected = expected_of(until, member, us(at(4.5)))
        np.testing.assert_allclose(got, expected, atol=1e-5)
    label = {**rows[0], "event_timestamp": at(4.5), "request_timestamp": pd.NaT}
    joined = repo.store.get_historical_features(pd.DataFrame([label]), [feature]).to_df()
    expected = expected_of(until, 7, us(at(4.5)))[2]
    np.testing.assert_allclose(joined["activity_embedding"][0], expected, atol=1e-5)


def test_a_request_whose_session_ids_are_not_is_refused(repo, kind):
    rows = entity_rows([7], request_of({7: RECENT[7]}, kind), session_ids=True)
    wrong = [0.5, 0.5]
    with pytest.raises(InvalidRequest, match="recent_job_session_ids should be ids of type"):
        repo.store.get_online_features(
            [f"{EMBEDDING}_realtime:activity_embedding"],
            [{**rows[0], "recent_job_session_ids": wrong}],
        )


PUSHED = [
    ((7, 4, "APPLY", at(4.1)), 2),
    ((7, 5, "SAVE", at(4.2)), None),
    ((8, 6, "APPLY", at(4.15)), 0),
    ((999, 2, "SAVE", at(4.3)), 8),
]


def test_pushes_in_any_order_make_the_rows_that_the_next_run_makes(repo, kind):
    until = [event for event in EVENTS if event[0][3] < T] + PUSHED
    members = [7, 8, 9, 999]
    expected = []
    for member in members:
        newest = max(us(time) for (m, _, _, time), _ in until if m == member) + 1
        expected.append(expected_of(until, member, max(us(T), newest))[:2])

    def push(*parts):
        repo.put_back()
        writer = SequenceWriter(repo.store)
        for part in parts:
            writer.push(table_of([row for row, _ in part], [s for _, s in part], kind))
        return [found[:2] for found in stored(repo, members)]

    # The first event again, of no session: it keeps the one that it has.
    again = [(PUSHED[0][0], None)]
    assert push(PUSHED[::-1]) == expected
    assert push(PUSHED[2:], again, PUSHED[:2]) == expected
    repo.materialize(T, at(6))
    logged = EVENTS + PUSHED
    for member, found in zip(members, stored(repo, members), strict=True):
        events, ids, embedding = expected_of(logged, member, us(at(6)))
        assert found[:2] == (events, ids)
        np.testing.assert_allclose(found[2], embedding, atol=2e-6)
    report = check(repo.store, sample=1000)
    assert not report.differences and f"{EMBEDDING}_realtime" in report.compared


def test_training_groups_by_the_ids(repo):
    period = Period(at(-10), at(9))
    history = TrainingSource(repo.store).history(period)
    objective = NextSession(windows=Windows(minimum=1, prefixes=True, per_member=None))
    moments, _ = objective.moments(history, period, np.random.default_rng(0))
    members = history.events.member_ids.take(pa.array(moments.member)).to_pylist()
    got = sorted(zip(members, moments.sequences.as_of.tolist(), strict=True))
    known = [
        (row, session)
        for row, session in EVENTS
        if row[3] < at(9) and vector_as_of(VECTORS, row[1], us(at(9))) is not None
    ]
    known.sort(key=lambda e: (e[0][0], us(e[0][3]), e[0][1]))
    plain = [(m, us(t), session) for (m, _, _, t), session in known]
    expected = []
    for first in sorted({min(session) for session in sessions_of(plain, HALF_AN_HOUR)}):
        (member, item, _, time), _ = known[first]
        if time < at(-10) or vector_as_of(VECTORS, item, us(time)) is None:
            continue
        if expected_of(EVENTS, member, us(time))[0]:
            expected.append((member, us(time)))
    assert got == sorted(expected)


def test_session_ids_of_one_kind_alone_are_refused(tmp_path, models_of_kinds):
    repo = repo_of_kinds(tmp_path / "repo", models_of_kinds, members=12, days=6)
    add_session_ids(repo, of_searches=False)
    refused = repo.feast("apply")
    assert refused.code == 1
    assert (
        "session ids: expected the views of events of all kinds of activity to declare "
        "`session_id`, of one type, or none of them. Received: job_activity int64, "
        "search_activity none"
    ) in refused.output


def test_sessions_are_of_all_kinds_of_activity(tmp_path, models_of_kinds, monkeypatch):
    """A session id of a search is that of the applications which follow, in memory or spilled."""
    jobs = sorted(set(small_data(members=12, days=6)[0]))
    searches = sorted(set(search_data()[0]))
    whole, parts = (
        repo_of_kinds(
            tmp_path / name,
            models_of_kinds,
            job_events=jobs,
            search_events=searches,
            members=12,
            days=6,
        )
        for name in ("whole", "parts")
    )
    for repo in (whole, parts):
        add_session_ids(repo)
    whole.publish(at(2), T)
    monkeypatch.setattr(engine, "MIB", 1)  # 512 bytes of events
    parts.publish(at(2), T)
    assert whole.stores() == parts.stores()
    session_at = {
        **{
            (m, f"job:{i}", us(t)): s
            for (m, i, _, t), s in zip(jobs, session_ids(len(jobs)), strict=True)
        },
        **{
            (m, f"search:{q}", us(t)): s
            for (m, q, _, t), s in zip(searches, session_ids(len(searches), seed=4), strict=True)
        },
    }
    store = whole.store
    shared = 0
    for row in sink_of(store.get_feature_view(SEQUENCE), store.config).read(us(T)).to_pylist():
        events = list(zip(row["activity_job_ids"], row["activity_times"], strict=True))
        expected = [session_at[row["member_id"], *event] for event in events]
        assert row["activity_session_ids"] == ["" if s is None else str(s) for s in expected]
        of_kinds = [
            {s for (item, _), s in zip(events, expected, strict=True) if s and item.startswith(k)}
            for k in ("job:", "search:")
        ]
        shared += bool(of_kinds[0] & of_kinds[1])
    assert shared > 1
    assert not check(store, sample=1000).differences


def test_a_domain_without_session_ids_has_no_field_for_them(tmp_path, models):
    repo = make_repo(
        tmp_path / "repo",
        models,
        events_table(small_data(members=8)[0]),
        vectors_table(small_data()[1]),
        OWN_VECTORS,
    )
    (repo.path / "activity_models.py").write_text(MODELS_PY)
    (repo.path / "services.py").write_text(SERVICES_PY)
    repo.publish(at(3), T)
    view = repo.store.get_feature_view(SEQUENCE)
    assert "activity_session_ids" not in [field.name for field in view.features]
    assert "session" not in view.tags["activity_domain"]
    for file in (repo.data / "snapshots" / SEQUENCE).rglob("*.parquet"):
        assert "activity_session_ids" not in pq.read_schema(file).names
    # A model of sessions has them by the time alone.
    untold = [(row, None) for row in sorted(set(small_data(members=8)[0]))]
    feature = f"{EMBEDDING}:activity_embedding"
    answer = repo.store.get_online_features([feature], [{"member_id": m} for m in range(1, 9)])
    for member, got in enumerate(answer.to_dict()["activity_embedding"], start=1):
        _, _, expected = expected_of(untold, member, us(T))
        np.testing.assert_allclose(got or np.zeros(DIMENSION), expected, atol=2e-6)
