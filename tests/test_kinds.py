"""Two kinds of activity in one sequence, through the real command and stores."""

import json
import signal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from redis import Redis

from activity_embeddings import (
    ActivitySpec,
    DomainNames,
    InvalidInput,
    InvalidRequest,
    ItemVectorSpec,
    SequenceWriter,
    TrainingSource,
    entity_rows,
    explain,
)
from activity_embeddings.training.commands import cli as commands
from activity_embeddings.training.models import InterleavedDecay
from activity_embeddings.training.packaging import package_model
from activity_embeddings.transformations.batch import engine
from activity_embeddings.transformations.batch.executors import base, processes
from activity_embeddings.transformations.check import check
from activity_embeddings.transformations.cli import cli
from activity_embeddings.transformations.forget import forget
from activity_embeddings.transformations.offline.sinks.places import sink_of
from activity_embeddings.transformations.spec import vector_spec_of_kinds
from support.feast_repo import DIMENSION, at, events_table, interval, run_killed, small_data, us
from support.feast_server import feast_server
from support.iceberg_repo import in_iceberg
from support.item_encoders import (
    as_reference,
    expected_vectors,
    package_encoder,
    postings_table,
    small_postings,
)
from support.kinds import (
    JOBS,
    KEEP,
    OF_JOBS,
    SPEC,
    repo_of_kinds,
    search_data,
    search_vectors_table,
    searches_table,
    write_searches,
)
from support.postgres_repo import SOURCE, in_utc, ingest, move_to_postgres, serve_from_postgres
from support.redis_server import redis_server, use_redis
from support.reference import decayed_of, kept_of_kinds, vector_as_of

pytestmark = pytest.mark.slow

T = at(4)
SEQUENCE, BOTH, OWN = (
    "job_activity_sequence",
    "job_activity_embedding_both",
    "job_activity_embedding_own",
)
ORDER = ["PAD", *SPEC.actions]
VECTORS = [(f"job:{i}", us(t), v) for i, t, v in small_data()[1]] + [
    (f"search:{i}", us(t), v) for i, t, v in search_data()[1]
]


def plain(jobs=(), searches=()):
    """Return events of both kinds as (member, item, action, time in us), items with their kind."""
    return [(m, f"job:{i}", a, us(t)) for m, i, a, t in jobs] + [
        (m, f"search:{i}", a, us(t)) for m, i, a, t in searches
    ]


EVENTS = plain(small_data()[0], search_data()[0])


def expected_sequence(events, member, as_of, vectors=VECTORS):
    """Return (item, action, time) of a member's sequence, oldest first, by the slow reference."""
    seen = sorted(
        {
            (time, item, ORDER.index(action))
            for who, item, action, time in events
            if who == member and as_of - SPEC.window_us <= time < as_of
        }
    )
    known = [e for e in seen if vector_as_of(vectors, e[1], as_of) is not None]
    kept = kept_of_kinds(known, lambda e: e[1].partition(":")[0], KEEP, SPEC.length)
    return [(item, action, time) for time, item, action in kept]


def expected_decay(sequence, as_of, actions, vectors=VECTORS):
    """Return the decay by 0.8 of the vectors of some actions of a sequence."""
    chosen = [item for item, action, _ in sequence if ORDER[action] in actions]
    newest = [vector_as_of(vectors, item, as_of) for item in chosen]
    return np.array(decayed_of(newest, DIMENSION, 0.8))


WANTED = ("APPLY", "SAVE", "SEARCH", "REFINE")


@pytest.fixture(scope="module")
def models(models_of_kinds):
    return models_of_kinds


@pytest.fixture(scope="module")
def of_day_4(tmp_path_factory, models):
    repo = repo_of_kinds(tmp_path_factory.mktemp("kinds") / "repo", models)
    repo.publish(at(2), T)
    repo.keep()
    return repo


@pytest.fixture
def repo(of_day_4):
    """Published as of days 3 and 4."""
    return of_day_4.put_back()


def stored(repo, members, features=("activity_job_ids", "activity_actions", "activity_times")):
    """Return what the online store serves: (item, action, time) of each member."""
    answer = repo.store.get_online_features(
        [f"{SEQUENCE}:{name}" for name in features], [{"member_id": m} for m in members]
    ).to_dict()
    columns = [[value or [] for value in answer[name]] for name in features]
    return [list(zip(*row, strict=True)) for row in zip(*columns, strict=True)]


def test_offline_and_online_rows_are_the_newest_of_both_kinds_with_their_places(repo):
    store = repo.store
    rows = sink_of(store.get_feature_view(SEQUENCE), store.config).read(us(T)).to_pylist()
    assert {row["member_id"] for row in rows} >= {m for m, *_ in EVENTS if m % 5 == 0}
    kinds = set()
    for row in rows:
        expected = expected_sequence(EVENTS, row["member_id"], us(T))
        columns = row["activity_job_ids"], row["activity_actions"], row["activity_times"]
        assert list(zip(*columns, strict=True)) == expected
        assert row["activity_count"] == len(expected)
        kinds.add(tuple(sorted({item.partition(":")[0] for item, *_ in expected})))
    assert {("job",), ("search",), ("job", "search")} <= kinds
    members = [row["member_id"] for row in rows]
    assert stored(repo, members) == [expected_sequence(EVENTS, m, us(T)) for m in members]
    # Searches fill their places, and those of jobs stay what they are.
    full = [expected_sequence(EVENTS, m, us(T)) for m in members]
    assert any(len(each) == SPEC.length for each in full)


def test_embeddings_average_the_kinds_that_they_say(repo):
    members = list(range(1, 45))
    answer = repo.store.get_online_features(
        [f"{BOTH}:activity_embedding", f"{OWN}:apply_embedding"],
        [{"member_id": m} for m in members],
    ).to_dict()
    for i, member in enumerate(members):
        sequence = expected_sequence(EVENTS, member, us(T))
        for name, actions in (("activity_embedding", WANTED), ("apply_embedding", ("APPLY",))):
            got = np.zeros(DIMENSION) if answer[name][i] is None else np.array(answer[name][i])
            np.testing.assert_allclose(got, expected_decay(sequence, us(T), actions), atol=2e-6)


def test_labels_join_the_newest_snapshot_before_them(repo):
    labels = pd.DataFrame(
        {"member_id": [5, 5, 7, 10], "event_timestamp": [at(3.5), at(4.2), at(4.2), at(3.1)]}
    )
    joined = repo.store.get_historical_features(
        labels, [f"{SEQUENCE}:activity_job_ids", f"{BOTH}:activity_embedding"]
    ).to_df()
    assert len(joined) == 4
    for row in joined.to_dict("records"):
        as_of = us(at(4) if row["event_timestamp"] >= at(4) else at(3))
        sequence = expected_sequence(EVENTS, row["member_id"], as_of)
        if not sequence:
            assert row["activity_job_ids"] is None
            continue
        assert list(row["activity_job_ids"]) == [item for item, *_ in sequence]
        np.testing.assert_allclose(
            row["activity_embedding"], expected_decay(sequence, as_of, WANTED), atol=2e-6
        )


RECENT = {
    5: [(4, "APPLY", at(4.1)), ("q:1", "SEARCH", at(4.05)), ("q:2", "REFINE", at(4.2))],
    6: [("q:3", "SEARCH", at(4.1))],
    999: [(2, "SAVE", at(4.15)), ("q:99", "SEARCH", at(4.1))],
}


def recent_of(recent):
    return [
        (m, f"{'search' if action in ('SEARCH', 'REFINE') else 'job'}:{item}", action, us(t))
        for m, events in recent.items()
        for item, action, t in events
    ]


def test_requests_bring_both_kinds(repo):
    now = at(4.5)
    rows = entity_rows([5, 6, 7, 999], RECENT, request_timestamp=now, spec=SPEC)
    assert rows[1]["recent_job_ids"] is None and rows[1]["recent_search_ids"] == ["q:3"]
    answer = repo.store.get_online_features(
        [f"{BOTH}_realtime:{n}" for n in ("activity_embedding", "new_activity_count")], rows
    ).to_dict()
    # The stored sequence is that of T: later events are in the request alone.
    until = [event for event in EVENTS if event[3] < us(T)]
    for i, member in enumerate([5, 6, 7, 999]):
        sequence = expected_sequence(until + recent_of(RECENT), member, us(now))
        np.testing.assert_allclose(
            answer["activity_embedding"][i],
            expected_decay(sequence, us(now), WANTED),
            atol=1e-5,
        )
    assert answer["new_activity_count"] == [3, 1, 0, 1]


def test_a_training_join_reads_the_requests_of_labels(repo):
    rows = entity_rows([5], {5: RECENT[5]}, spec=SPEC)
    labels = pd.DataFrame([{**rows[0], "event_timestamp": at(4.5), "request_timestamp": pd.NaT}])
    joined = repo.store.get_historical_features(
        labels, [f"{BOTH}_realtime:activity_embedding"]
    ).to_df()
    until = [event for event in EVENTS if event[3] < us(T)]
    sequence = expected_sequence(until + recent_of({5: RECENT[5]}), 5, us(at(4.5)))
    np.testing.assert_allclose(
        joined["activity_embedding"][0], expected_decay(sequence, us(at(4.5)), WANTED), atol=1e-5
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"recent_search_ids": [[3]]}, "recent_search_ids should be ids of type strings"),
        ({"recent_search_actions": [[7]]}, "names of actions, as SEARCH, REFINE. Received: 7"),
        ({"recent_search_timestamps": [[]]}, "recent_search_timestamps of length 0"),
        ({"recent_job_ids": [["x"]], **{}}, "recent_job_ids"),
    ],
)
def test_a_request_is_refused_by_the_kind_that_is_wrong(repo, columns, message):
    from activity_embeddings.transformations.feast_compat.requests import online_context
    from activity_embeddings.transformations.serving.request_columns import RequestColumns

    store = repo.store
    context = online_context(store, [f"{BOTH}_realtime:activity_embedding"], full_names=False)
    (row,) = entity_rows([5], {5: [("q:1", "SEARCH", at(4.1))]}, request_timestamp=T, spec=SPEC)
    given = {name: [value] for name, value in row.items()}
    request = RequestColumns.of(context, store)
    assert request.check(given) == given
    with pytest.raises(InvalidRequest, match=message):
        request.check({**given, **columns})
    without = {name: values for name, values in given.items() if "search" not in name}
    with pytest.raises(InvalidRequest, match=r"expected the columns recent_search.* with `spec`"):
        request.check(without)


@pytest.mark.process
def test_a_server_answers_requests_of_both_kinds(repo, tmp_path):
    rows = entity_rows([5, 6, 7], RECENT, request_timestamp=at(4.5), spec=SPEC)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    body = {"features": [f"{BOTH}_realtime:activity_embedding"], "entities": columns}
    until = [event for event in EVENTS if event[3] < us(T)]
    with feast_server(repo, tmp_path / "serve.log") as server:
        got = server.features(body)["activity_embedding"]
        wrong = {**columns, "recent_search_ids": [["q:1", "q:2"], [7], None]}
        status, said = server.ask({**body, "entities": wrong})
    for i, member in enumerate([5, 6, 7]):
        sequence = expected_sequence(until + recent_of(RECENT), member, us(at(4.5)))
        np.testing.assert_allclose(got[i], expected_decay(sequence, us(at(4.5)), WANTED), atol=1e-5)
    assert status == 422 and "recent_search_ids should be ids of type strings" in str(said)


PUSHED = {
    "job": [(5, 4, "APPLY", at(4.1)), (6, 3, "SAVE", at(4.3)), (50, 2, "APPLY", at(3.9))],
    "search": [
        (5, "q:2", "SEARCH", at(4.2)),
        (50, "q:1", "REFINE", at(4.3)),
        (6, "q:99", "SEARCH", at(4.1)),
    ],
}
MEMBERS = [5, 6, 7, 50]


def push(repo, kinds):
    writer = SequenceWriter(repo.store)
    reports = {}
    for kind in kinds:
        rows = PUSHED[kind]
        table = events_table(rows) if kind == "job" else searches_table(rows)
        reports[kind] = writer.push(table, kind=None if kind == "job" else kind)
    return reports


def test_pushes_of_kinds_make_the_same_rows_in_any_order(repo):
    until = [event for event in EVENTS if event[3] < us(T)]
    everything = until + plain(PUSHED["job"], PUSHED["search"])
    expected = [
        expected_sequence(everything, m, max([us(T), *(e[3] + 1 for e in everything if e[0] == m)]))
        for m in MEMBERS
    ]
    reports = push(repo, ["job", "search"])
    assert [(r.new, r.unknown) for r in reports.values()] == [(3, 0), (2, 1)]
    assert stored(repo, MEMBERS) == expected
    again = push(repo, ["search", "job"])
    assert [r.new for r in again.values()] == [0, 0]
    repo.put_back()
    push(repo, ["search", "job"])
    assert stored(repo, MEMBERS) == expected
    # Both are logged, each in its own source, so that the next run agrees.
    assert len(list((repo.data / "search_events").glob("live-*.parquet"))) == 1
    repo.materialize(T, at(6))
    logged = EVENTS + plain(PUSHED["job"], PUSHED["search"])
    assert stored(repo, MEMBERS) == [expected_sequence(logged, m, us(at(6))) for m in MEMBERS]
    assert not check(repo.store, sample=1000).differences


def in_redis(address):
    """Return every key of a Redis with what it holds."""
    host, port = address.split(":")
    with Redis(host=host, port=int(port)) as client:
        return {key: client.hgetall(key) for key in client.scan_iter()}


@pytest.mark.redis
def test_redis_merges_serves_and_forgets_kinds(repo):
    secret = 7_205_759_403_792_793
    theirs = {
        "job": events_table([(secret, 4, "APPLY", at(4.1))]),
        "search": searches_table([(secret, "q:2", "SEARCH", at(4.2))]),
    }
    with redis_server() as address:
        use_redis(repo, address)
        repo.run("apply")
        repo.materialize(at(3), T)
        members = list(range(1, 45))
        until = [event for event in EVENTS if event[3] < us(T)]
        expected = [expected_sequence(EVENTS, m, us(T)) for m in members]
        assert stored(repo, members) == expected

        pushed = until + plain(PUSHED["job"], PUSHED["search"])
        newest = {m: max([us(T), *(e[3] + 1 for e in pushed if e[0] == m)]) for m in MEMBERS}
        of_pushed = [expected_sequence(pushed, m, newest[m]) for m in MEMBERS]
        push(repo, ["search", "job"])
        assert stored(repo, MEMBERS) == of_pushed
        assert [report.new for report in push(repo, ["job", "search"]).values()] == [0, 0]
        assert stored(repo, MEMBERS) == of_pushed

        rows = entity_rows(MEMBERS, RECENT, request_timestamp=at(4.5), spec=SPEC)
        answer = repo.store.get_online_features([f"{BOTH}_realtime:activity_embedding"], rows)
        for member, got in zip(MEMBERS, answer.to_dict()["activity_embedding"], strict=True):
            sequence = expected_sequence(pushed + recent_of(RECENT), member, us(at(4.5)))
            np.testing.assert_allclose(
                got, expected_decay(sequence, us(at(4.5)), WANTED), atol=1e-5
            )

        others = in_redis(address)
        writer = SequenceWriter(repo.store)
        for kind, table in theirs.items():
            assert writer.push(table, kind=kind).new == 1
        assert secret.to_bytes(8, "little") in b"".join(in_redis(address))
        assert len(stored(repo, [secret])[0]) == 2
        forget(repo.store, [secret])
        assert in_redis(address) == others
        for file in repo.data.rglob("*.parquet"):
            assert str(secret) not in str(pq.read_table(file, partitioning=None).to_pydict())

        repo.materialize(T, at(6))
        logged = EVENTS + plain(PUSHED["job"], PUSHED["search"])
        assert stored(repo, MEMBERS) == [expected_sequence(logged, m, us(at(6))) for m in MEMBERS]
        assert secret.to_bytes(8, "little") not in b"".join(in_redis(address))
        assert not check(repo.store, sample=1000).differences


def test_the_command_pushes_a_kind_and_compacts_the_files_of_all(repo, tmp_path):
    file = tmp_path / "searches.jsonl"
    lines = [
        {"member_id": m, "query": q, "how": how, "event_timestamp": t.isoformat()}
        for m, q, how, t in PUSHED["search"]
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for _ in range(2):
        pushed = CliRunner().invoke(
            cli, ["-C", str(repo.path), "push", str(file), "--kind", "search"]
        )
        assert pushed.exit_code == 0, pushed.output
    assert "none of 3 events are new" in pushed.output
    wrong = CliRunner().invoke(cli, ["-C", str(repo.path), "push", str(file), "--kind", "post"])
    assert wrong.exit_code == 1
    assert "expected one of its kinds of activity: job, search. Received: 'post'" in wrong.output
    compacted = CliRunner().invoke(cli, ["-C", str(repo.path), "compact"])
    assert "2 files of pushes merged, 6 events" in compacted.output


def test_check_finds_nothing_and_then_what_was_added_to_one_kind(repo):
    report = check(repo.store, sample=1000)
    assert not report.differences
    assert {SEQUENCE, BOTH, f"{BOTH}_realtime"} <= set(report.compared)
    late = (7, "q:1", "SEARCH", at(3.5))
    write_searches(repo, searches_table([*search_data()[0], late]))
    differences = check(repo.store, sample=1000).differences
    assert {(d.member, d.cause) for d in differences if d.what == "stored"} == {
        (7, "late event or vector")
    }


def test_explanations_show_kind_and_id_and_the_nearest_of_the_own_kind(repo):
    member = next(
        m
        for m in range(1, 45)
        if len({e[0].partition(":")[0] for e in expected_sequence(EVENTS, m, us(T))}) == 2
    )
    sequence = expected_sequence(EVENTS, member, us(T))
    published = explain(repo.store, member, models=["both"])
    recomputed = explain(repo.store, member, models=["both"], as_of=T)
    for explanation in (published, recomputed):
        shown = [(f"{a.kind}:{a.item}", ORDER.index(a.action)) for a in explanation.activities]
        assert shown == [(item, action) for item, action, _ in sequence]
        (output,) = explanation.outputs
        np.testing.assert_allclose(
            output.vector, expected_decay(sequence, us(T), WANTED), atol=2e-6
        )
        acted_on = {a.item for a in explanation.activities if a.kind == "job"}
        assert len(output.nearest) == 10
        assert all(isinstance(n.item, int) and n.item not in acted_on for n in output.nearest)
    assert "search q:" in str(published)
    arguments = ["-C", str(repo.path), "explain", str(member), "--model", "both", "--json"]
    recent = [
        *("--recent", "4", "APPLY", at(4.1).isoformat()),
        *("--recent", "q:2", "SEARCH", at(4.2).isoformat()),
    ]
    said = CliRunner().invoke(cli, [*arguments, *recent, "--as-of", at(4.5).isoformat()])
    assert said.exit_code == 0, said.output
    newest = json.loads(said.output)["activities"][-2:]
    assert [(a["kind"], a["item"], a["new"]) for a in newest] == [
        ("job", 4, True),
        ("search", "q:2", True),
    ]


def test_who_is_forgotten_is_in_no_source_of_pushes(tmp_path, models):
    secret = 7_205_759_403_792_793
    queries = [(secret, "q:1", "SEARCH", at(1)), (8, "q:2", "SEARCH", at(2))]
    repo = repo_of_kinds(tmp_path / "repo", models, search_events=queries)
    repo.publish(at(2), T)
    with pytest.raises(InvalidInput, match=r"search_activity .*expected no events"):
        forget(repo.store, [secret])
    pushed = searches_table([(secret, "q:2", "SEARCH", at(4.1)), (8, "q:1", "SEARCH", at(4.1))])
    SequenceWriter(repo.store).push(pushed, kind="search")
    write_searches(repo, searches_table(queries[1:]))
    traces = forget(repo.store, [secret])
    assert (traces.pushed, traces.online) == (1, 4) and traces.snapshots
    for file in repo.data.rglob("*.parquet"):
        assert str(secret) not in str(pq.read_table(file, partitioning=None).to_pydict())
    rows = repr(repo.online_rows()).encode() + repr(repo.snapshot_files()).encode()
    assert secret.to_bytes(8, "little") not in rows
    assert not check(repo.store, sample=1000).differences


@pytest.mark.parametrize("event_ids", [False, True])
def test_bytes_do_not_depend_on_where_and_in_what_parts_rows_are_computed(
    tmp_path, models, monkeypatch, event_ids
):
    repos = [repo_of_kinds(tmp_path / n / "repo", models, members=12, days=6) for n in "abc"]
    for repo in repos if event_ids else []:
        table = pq.read_table(repo.events)
        numbers = pa.array(range(len(table), 0, -1))
        repo.write_events(table.append_column("event_id", numbers))
        searches = searches_table(search_data()[0])
        write_searches(repo, searches.append_column("event_id", pa.array(range(len(searches)))))
    one, in_parts, elsewhere = repos
    one.publish(at(-1), T)
    elsewhere.set_engine(executor="processes", workers=2)
    monkeypatch.setattr(base, "ROWS_A_TASK", 5)
    monkeypatch.setattr(processes, "WORTH_SECONDS", 0)
    assert "wait for workers" in elsewhere.publish(at(-1), T).output
    monkeypatch.setattr(engine, "MIB", 1)  # 512 bytes of events
    in_parts.publish(at(-1), T)
    assert one.stores() == in_parts.stores() == elsewhere.stores()


def test_training_reads_both_kinds_and_predicts_the_own(repo):
    from activity_embeddings import Period
    from activity_embeddings.training.examples.held_out import Windows, hold_out
    from activity_embeddings.training.objectives import FuturePositives

    source = TrainingSource(repo.store)
    period = Period(at(-10), at(9))
    history = source.history(period)
    own = {id for id in history.vectors.item_ids.to_pylist() if id.startswith("job:")}
    assert {history.vectors.item_ids[int(i)].as_py() for i in history.own_items} == own
    held_out = hold_out(
        history, period, windows=Windows(minimum=1, prefixes=True), random=np.random.default_rng(0)
    )
    assert set(held_out.label.tolist()) <= set(SPEC.own_action_ids)
    assert (held_out.sequences.action > len(SPEC.own_actions)).any()
    items = history.vectors.item_ids
    days = history.items_of_days
    assert all(items[int(i)].as_py() in own for i in (*days.items, *days.events))
    objective = FuturePositives(day_negatives=4, other_weight=0.5)
    batch = next(objective.stream(history, period).batches())
    counts = np.diff([*history.vectors.start, len(history.vectors.matrix)])
    item_of_row = np.repeat(np.arange(len(items) + 1), counts)
    drawn = ("target_rows", "day_rows", "dismissed_rows", "negative_rows")
    for rows in (batch[name][batch[name] != history.vectors.pad_row] for name in drawn):
        assert len(rows) and all(items[int(item_of_row[row])].as_py() in own for row in rows)


def test_a_small_network_is_trained_packaged_and_published(repo, tmp_path):
    def command(*arguments):
        done = CliRunner().invoke(commands, ["-C", str(repo.path), *map(str, arguments)])
        assert done.exit_code == 0, done.output + repr(done.exception)

    periods = (
        *("--from", at(-10).isoformat(), "--validate-from", at(5).isoformat()),
        *("--until", at(9).isoformat(), "--epochs", 1, "--set", "filters=4"),
    )
    command("train", "cnn", *periods, "--run", tmp_path / "run")
    command("package", tmp_path / "run", "--name", "cnn", "--version", "2")
    repo.publish(at(3), T)
    answer = repo.store.get_online_features(
        ["job_activity_embedding_cnn:activity_embedding"], [{"member_id": m} for m in (5, 10)]
    ).to_dict()
    assert np.linalg.norm(answer["activity_embedding"], axis=1).all()


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "searches.py",
            '"words", "2", 64',
            '"words", "2", 32',
            "should have one dimension. Received: job 64, search 32",
        ),
        (
            "searches.py",
            '("SEARCH", "REFINE")',
            '("SAVE", "REFINE")',
            "'SAVE' of job and of search",
        ),
        ("searches.py", "SPEC.length", "8", "search should have the window and length of job"),
        (
            "views.py",
            '{"job": 6}',
            '{"post": 6}',
            "`keep` should be of job, search. Received: 'post'",
        ),
        (
            "views.py",
            "[vectors, search_vectors]",
            "[search_vectors, vectors]",
            "expected entities=[job]",
        ),
        (
            "views.py",
            "[vectors, search_vectors]",
            "vectors",
            "in the same order. Received: job_activity, search_activity; job_embedding",
        ),
        (
            "sources.py",
            '    action="action",',
            '    action="action",\n    event_id=Field(name="event_id", dtype=Int64),',
            "expected the views of events of all kinds",
        ),
    ],
)
def test_kinds_that_do_not_go_together_are_refused_by_apply(repo, file, old, new, said):
    if "event_id" in new:
        repo.edit(
            file, "from feast import", "from feast.types import Int64\nfrom feast import Field,"
        )
        table = pq.read_table(repo.events / "history.parquet")
        repo.write_events(table.append_column("event_id", pa.array(range(len(table)))))
    repo.edit(file, old, new)
    before = repo.stores()
    refused = repo.feast("apply")
    assert refused.code == 1
    assert said in refused.output
    assert repo.stores() == before


def test_bad_rows_are_named_by_the_view_of_their_kind(repo):
    write_searches(repo, searches_table([*search_data()[0], (1, "q:1", "APPLY", at(3))]))
    refused = repo.feast(*interval(T, at(5)))
    assert refused.code == 1
    assert "search_activity (data/search_events)" in refused.output
    assert "should be one of SEARCH, REFINE. Received: 'APPLY'" in refused.output


def test_a_kind_whose_vectors_have_other_ids_is_refused(repo):
    """However few events of all kinds together that are."""
    rows = [(query.upper(), since, vector) for query, since, vector in search_data()[1]]
    pq.write_table(search_vectors_table(rows), repo.data / "search_embeddings.parquet")
    before = repo.stores()
    refused = repo.feast(*interval(T, at(5)))
    assert refused.code == 3  # a guard's
    assert "100 % of the search activity in the windows is on unknown items" in refused.output
    assert repo.stores() == before


def test_silence_in_all_kinds_is_said(repo):
    """Searches end on day 10; every third member has acted on no job since day 12."""
    later = at(42)
    repo.materialize(at(41), later)
    members = [m for m in range(3, 43, 3) if expected_sequence(EVENTS, m, us(T))]
    assert members and stored(repo, members) == [[] for _ in members]
    counts = repo.store.get_online_features(
        [f"{SEQUENCE}:activity_count"], [{"member_id": m} for m in members]
    ).to_dict()
    assert counts["activity_count"] == [0] * len(members)
    busy = [m for m in range(1, 45) if expected_sequence(EVENTS, m, us(later))]
    assert stored(repo, busy) == [expected_sequence(EVENTS, m, us(later)) for m in busy]


ENCODED_SEARCHES_PY = """
search_postings = posting_view(
    FileSource(path="data/search_postings.parquet", timestamp_field="event_timestamp"),
    item=search,
    schema=[
        Field(name="title", dtype=String),
        Field(name="genres", dtype=Array(String)),
        Field(name="year", dtype=Int64),
    ],
)
search_vectors = encoded_vector_view(
    REPO / "models" / "search_encoder", postings=search_postings, item=search, repo=REPO
)
"""


def test_an_encoder_may_make_the_vectors_of_a_kind(tmp_path, models):
    """Published, looked up and trained on; jobs have vectors of the user's own."""
    repo = repo_of_kinds(tmp_path / "repo", models)
    encoder = package_encoder(repo.path / "models" / "search_encoder")
    of_all = vector_spec_of_kinds({"job": OF_JOBS, "search": encoder.vector_spec})
    package_model(
        InterleavedDecay(r=0.8, kinds=("job", "search")).build(SPEC, of_all),
        repo.path / "models" / "both",
        name="both",
        version="2",
        spec=SPEC,
        vector_spec=of_all,
    )
    for name in ("own", "cnn"):
        repo.edit("activity_models.py", f'    ActivityModel(MODELS / "{name}"),\n', "")
    text = (repo.path / "searches.py").read_text()
    head = text[: text.index("search_vectors = vector_view(")]
    imports = (
        "from feast import Field\nfrom feast.types import Array, Int64, String\n"
        "from sources import REPO\n"
        "from activity_embeddings import encoded_vector_view, posting_view\n"
    )
    (repo.path / "searches.py").write_text(imports + head + ENCODED_SEARCHES_PY)
    posted = [(f"q:{item}", *rest) for item, *rest in small_postings(12)]
    table = postings_table([(0, *rest) for _, *rest in posted])
    queries = pa.array([query for query, *_ in posted])
    table = table.set_column(0, "query", queries)
    pq.write_table(table, repo.data / "search_postings.parquet")
    repo.publish(at(2), T)
    known = expected_vectors(posted, T)
    vectors = [(f"job:{i}", us(t), v) for i, t, v in small_data()[1]]
    vectors += [(f"search:{item}", time, vector) for item, time, vector in as_reference(known)]
    members = list(range(1, 45))
    answer = repo.store.get_online_features(
        [f"{BOTH}:activity_embedding"], [{"member_id": m} for m in members]
    ).to_dict()["activity_embedding"]
    met = set()
    for member, got in zip(members, answer, strict=True):
        sequence = expected_sequence(EVENTS, member, us(T), vectors)
        met |= {item for item, *_ in sequence if item.startswith("search:")}
        expected = expected_decay(sequence, us(T), WANTED, vectors)
        np.testing.assert_allclose(np.zeros(DIMENSION) if got is None else got, expected, atol=2e-6)
    assert len(met) > 5
    assert not check(repo.store, sample=1000).differences
    history = TrainingSource(repo.store).whole_history(at(9))
    trained_on = [i for i in history.vectors.item_ids.to_pylist() if i.startswith("search:")]
    assert set(trained_on) >= {f"search:{item}" for item, _ in known}


COURSES_PY = """
from entities import member
from feast import Entity, FileSource
from feast.value_type import ValueType
from item_vectors import vectors
from sources import REPO, SPEC, activity

from activity_embeddings import (
    ActivityDomain, ActivityModel, ActivitySpec, ItemVectorSpec, activity_view, vector_view,
)

course = Entity(name="course", join_keys=["course_id"], value_type=ValueType.STRING)
enrolments = activity_view(
    FileSource(path="data/enrolments.parquet", timestamp_field="event_timestamp"),
    member=member,
    item=course,
    spec=ActivitySpec(SPEC.window, SPEC.length, ("ENROL",), ("ENROL",)),
)
course_vectors = vector_view(
    FileSource(path="data/course_embeddings.parquet", timestamp_field="event_timestamp"),
    item=course,
    vectors=ItemVectorSpec("courses", "1", 64),
)
courses = ActivityDomain(
    activity=[enrolments, activity],
    vectors=[course_vectors, vectors],
    keep={"course": 4},
    member=member,
    item=course,
    models=[ActivityModel(REPO / "models" / "courses")],
    repo=REPO,
)
globals().update(courses.views)
"""


def test_what_is_own_in_one_domain_is_another_kind_in_a_second_one(tmp_path, models):
    """Members' activity on jobs is in the sequences of courses, too."""
    spec = ActivitySpec.of_kinds(
        {"course": ActivitySpec(actions=("ENROL",), positive_actions=("ENROL",)), "job": JOBS},
        {"course": 4},
    )
    of_all = ItemVectorSpec("courses+content_and_behaviour", "1_1", DIMENSION)
    repo = repo_of_kinds(tmp_path / "repo", models)
    (repo.path / "courses.py").write_text(COURSES_PY)
    package_model(
        InterleavedDecay(r=0.8, kinds=("course", "job")).build(spec, of_all),
        repo.path / "models" / "courses",
        name="courses",
        version="1",
        spec=spec,
        vector_spec=of_all,
    )
    enrolments = [(5, "c1", at(1)), (5, "c2", at(2)), (60, "c1", at(3))]
    members, courses, times = zip(*enrolments, strict=True)
    stamp = pa.timestamp("us", "UTC")
    pq.write_table(
        pa.table(
            {
                "member_id": members,
                "course_id": courses,
                "action": ["ENROL"] * 3,
                "event_timestamp": pa.array(times, stamp),
            }
        ),
        repo.data / "enrolments.parquet",
    )
    of_courses = {f"c{i}": np.full(DIMENSION, i, dtype=np.float32) for i in (1, 2, 3)}
    pq.write_table(
        pa.table(
            {
                "course_id": list(of_courses),
                "embedding": [vector.tolist() for vector in of_courses.values()],
                "event_timestamp": pa.array([at(-40)] * 3, stamp),
            }
        ),
        repo.data / "course_embeddings.parquet",
    )
    repo.publish(at(3), T)
    jobs = {
        m: [i for i, *_ in expected_sequence(EVENTS, m, us(T)) if i.startswith("job:")]
        for m in range(6, 45)
    }
    few = next(m for m, items in jobs.items() if 0 < len(items) < 6)
    answer = repo.store.get_online_features(
        ["course_activity_sequence:activity_course_ids"],
        [{"member_id": m} for m in (5, 60, few)],
    )
    ids = answer.to_dict()["activity_course_ids"]
    assert [i for i in ids[0] if i.startswith("course:")] == ["course:c1", "course:c2"]
    assert ids[1:] == [["course:c1"], jobs[few]]
    for item in ("job", "course"):
        assert not check(repo.store, sample=1000, item=item).differences

    # One request is of both domains: the columns of jobs are the same to both.
    recent = {few: [("c3", "ENROL", at(4.1)), (4, "APPLY", at(4.2))]}
    (row,) = entity_rows(
        [few], recent, request_timestamp=at(4.5), spec=spec, domain=DomainNames(item="course")
    )
    (searches,) = entity_rows([few], request_timestamp=at(4.5), spec=SPEC)
    views = (f"{BOTH}_realtime", "course_activity_embedding_courses_realtime")
    answer = repo.store.get_online_features(
        [f"{view}:new_activity_count" for view in views],
        [{**searches, **row}],
        full_feature_names=True,
    ).to_dict()
    assert [answer[f"{view}__new_activity_count"] for view in views] == [[1], [2]]

    writer = SequenceWriter(repo.store, item="course")
    report = writer.push(events_table([(60, 4, "APPLY", at(4.1))]), kind="job")
    assert report.new == 1
    with pytest.raises(InvalidInput, match=r"job_activity .*expected no events"):
        forget(repo.store, [few], item="course")


@pytest.mark.process
def test_a_killed_run_is_finished_by_the_next(repo):
    repo.publish(T, at(5))
    undisturbed = repo.stores()
    repo.put_back()
    before = repo.stores()
    sink = "activity_embeddings.transformations.offline.sinks.folder", "FolderSink"
    killed = run_killed(repo, (*sink, "commit", 2, "after"), T, at(5))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert repo.stores() != before
    repo.materialize(T, at(5))
    assert repo.stores() == undisturbed


def test_the_same_from_snapshots_in_iceberg(tmp_path, models, repo):
    other = in_iceberg(repo_of_kinds(tmp_path / "iceberg", models), line="    repo=REPO,\n")
    other.publish(at(2), T)
    members = list(range(1, 50))
    assert stored(other, members) == stored(repo, members)
    assert not check(other.store, sample=1000).differences
    labels = pd.DataFrame({"member_id": members, "event_timestamp": at(3.5)})
    joined = [
        each.store.get_historical_features(labels, [f"{SEQUENCE}:activity_job_ids"]).to_df()
        for each in (repo, other)
    ]
    ids = [[None if each is None else list(each) for each in j["activity_job_ids"]] for j in joined]
    assert ids[0] == ids[1] and any(ids[0])


@pytest.mark.postgres
def test_the_same_in_postgresql(tmp_path, models, database, repo, monkeypatch):
    """Sources, snapshots and online rows, before and after pushes; events are read part by part."""
    monkeypatch.setattr(engine, "MIB", 1)  # 512 bytes of events
    other = move_to_postgres(repo_of_kinds(tmp_path / "postgres", models), database)
    for table, path in (
        ("search_events", "data/search_events"),
        ("search_embeddings", "data/search_embeddings.parquet"),
    ):
        ingest(database, table, pq.read_table(other.path / path))
        other.edit("searches.py", f'        path="{path}",\n', f'        table="{table}",\n')
    text = (other.path / "searches.py").read_text().replace("FileSource(", "PostgreSQLSource(")
    (other.path / "searches.py").write_text(SOURCE + text)
    serve_from_postgres(other, database)
    in_utc(database)
    other.publish(at(2), T)
    members = list(range(1, 50))
    assert stored(other, members) == stored(repo, members)
    assert not check(other.store, sample=1000).differences
    for each in (repo, other):
        push(each, ["search", "job"])
    assert stored(other, members) == stored(repo, members)
    labels = pd.DataFrame({"member_id": [5, 7], "event_timestamp": [at(4.2), at(3.1)]})
    joined = [
        each.store.get_historical_features(labels, [f"{SEQUENCE}:activity_job_ids"]).to_df()
        for each in (repo, other)
    ]
    ids = [[each if each is None else list(each) for each in j["activity_job_ids"]] for j in joined]
    assert ids[0] == ids[1] and ids[0][0]
