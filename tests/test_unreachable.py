"""A store that does not answer ends a command with a status of its own, whichever store it is."""

import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner
from pyarrow.fs import S3FileSystem, copy_files

from activity_embeddings.training.commands import cli
from activity_embeddings.transformations.errors import StoreUnreachable
from support.feast_repo import at, interval, small_repo
from support.iceberg_repo import in_iceberg
from support.postgres_repo import in_utc, move_to_postgres, serve_from_postgres
from support.postgres_server import PASSWORD
from support.s3_server import CREDENTIALS, REGION, make_bucket, s3_server

pytestmark = pytest.mark.slow

EVENTS = '    path="data/activity_events",\n'
EVENT = '{"member_id": 1, "job_id": 1, "action": "SAVE", "event_timestamp": "2024-03-01T00:00:00Z"}'
RUN = interval(at(0), at(1))


@pytest.fixture
def repo(tmp_path, models):
    (tmp_path / "events.jsonl").write_text(EVENT)
    return small_repo(tmp_path / "repo", models)


def require_one_error(status, output):
    errors = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert (status, len(errors)) == (StoreUnreachable.exit_code, 1), output
    assert "Traceback" not in output


def require_status(repo, *commands):
    """Run `feast materialize` and commands of the package, each of which meets the store."""
    done = repo.feast(*RUN)
    outcomes = [(done.code, done.output)]
    pushed = str(repo.path.parent / "events.jsonl")
    arguments = {"plan": RUN[1:3], "push": [pushed], "forget": ["1"]}
    for command in commands:
        line = ["-C", str(repo.path), command, *arguments.get(command, [])]
        result = CliRunner().invoke(cli, line)
        outcomes.append((result.exit_code, result.output))
    for code, output in outcomes:
        require_one_error(code, output)


def close(database):
    """End all connections to a database, and have it take no more."""
    with replace(database, database="postgres").connect() as connection:
        connection.execute(f"ALTER DATABASE {database.database} ALLOW_CONNECTIONS false")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [database.database],
        )


@pytest.mark.postgres
def test_a_database_of_sources_and_snapshots(repo, database):
    move_to_postgres(repo, database)
    repo.publish(at(-1), at(0))
    close(database)
    require_status(repo, "plan", "check", "push", "runs", "forget")


@pytest.mark.postgres
def test_an_online_store(repo, database):
    in_utc(database)
    serve_from_postgres(repo, database)
    repo.publish(at(-1), at(0))
    close(database)
    require_status(repo, "push")


@pytest.mark.postgres
def test_a_catalog_of_iceberg(repo, database, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    address = database.address.replace(f":{PASSWORD}@", "@")
    in_iceberg(repo, more=f', catalog_properties={{"uri": "{address}"}}')
    repo.publish(at(-1), at(0))
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM iceberg_tables").fetchone() == (5,)
    close(database)
    require_status(repo, "runs")


@pytest.fixture
def s3(monkeypatch):
    """A server of its own, which ends when its context does."""
    for name, value in {**CREDENTIALS, "AWS_REGION": REGION}.items():
        monkeypatch.setenv(name, value)
    return s3_server()


def test_an_object_store_of_events(repo, s3, monkeypatch):
    with s3 as address:
        # Or else Feast asks Amazon about the folder, and waits for an answer.
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        bucket = make_bucket(address, "lake")
        filesystem = S3FileSystem(endpoint_override=address, region=REGION)
        copy_files(str(repo.events), "lake/events", destination_filesystem=filesystem)
        shutil.rmtree(repo.events)
        there = f'    path="{bucket}/events",\n    s3_endpoint_override="{address}",\n'
        repo.edit("sources.py", EVENTS, there)
        repo.publish(at(-1), at(0))
    require_status(repo, "push")


def test_an_object_store_of_snapshots(repo, s3):
    with s3 as address:
        bucket = make_bucket(address, "lake")
        catalog = {"s3.endpoint": address, "s3.region": REGION, "uri": "sqlite:///data/catalog.db"}
        in_iceberg(repo, f'"{bucket}/warehouse"', f", catalog_properties={catalog}")
        repo.publish(at(-1), at(0))
    require_status(repo, "runs")
