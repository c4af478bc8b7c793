"""Servers that the tests of stores share."""

import pytest

from support.redis_server import redis_server


@pytest.fixture(scope="package")
def one_server():
    with redis_server() as address:
        yield address


@pytest.fixture(scope="package")
def cluster():
    with redis_server(cluster=True) as address:
        yield address


@pytest.fixture
def in_postgres(database):
    """Settings of an online store in a new database, whose sessions are in UTC."""
    with database.connect() as connection:
        connection.execute(f"ALTER DATABASE {database.database} SET timezone TO 'UTC'")
    return {"type": "postgres", **database.settings}
