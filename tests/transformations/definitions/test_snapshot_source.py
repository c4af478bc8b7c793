"""What a feature repo says of where snapshots lie, and what of it goes into the registry."""

import json

import pytest
from feast import RepoConfig
from feast.data_source import DataSource
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

from activity_embeddings import IcebergSnapshots
from activity_embeddings.transformations.definitions.snapshot_source import snapshot_source
from activity_embeddings.transformations.errors import InvalidInput
from support import processes

POSTGRES = "postgresql+psycopg://reader{}@db/catalog"


def source_of(place, repo, view="a_view", version="1"):
    return snapshot_source(place, view, version, repo=repo, owner="us")


def registered(place, repo):
    """The options of a source as the registry has them."""
    proto = source_of(place, repo).to_proto()
    return json.loads(proto.custom_options.configuration)


def test_a_warehouse_in_the_repo_is_registered_by_its_path_in_it(tmp_path):
    options = registered(IcebergSnapshots(tmp_path / "data" / "lake"), tmp_path)
    assert options["warehouse"] == "data/lake"
    assert options["catalog_properties"] == {"uri": "sqlite:///data/lake/catalog.db"}
    assert options["table"] == "a_view__v1"
    uri = {"uri": f"sqlite:///{tmp_path}/data/c.db", "s3.endpoint": "http://store"}
    for where in ({"catalog_properties": uri}, {"endpoint": uri["uri"]}):
        options = registered(IcebergSnapshots(str(tmp_path / "lake"), **where), tmp_path)
        assert options["warehouse"] == "lake"
        assert "sqlite:///data/c.db" in json.dumps(options)
        assert str(tmp_path) not in json.dumps(options)


def test_a_warehouse_on_a_disk_that_every_machine_has_has_its_catalog_in_it(tmp_path):
    options = registered(IcebergSnapshots("file:///mnt/share/lake"), tmp_path)
    assert options["warehouse"] == "file:///mnt/share/lake"
    assert options["catalog_properties"] == {"uri": "sqlite:////mnt/share/lake/catalog.db"}


def test_an_object_store_and_a_rest_catalog_are_registered_as_they_are_said(tmp_path):
    place = IcebergSnapshots(
        "s3://lake/warehouse",
        namespace="members",
        catalog_properties={"uri": POSTGRES.format(""), "s3.region": "eu-west-1"},
    )
    options = registered(place, tmp_path)
    assert options["warehouse"] == "s3://lake/warehouse" and options["namespace"] == "members"
    assert options["catalog_properties"]["uri"] == POSTGRES.format("")
    rest = IcebergSnapshots(
        "lake", catalog_type="rest", endpoint="https://catalog", token_env_var="LAKE_TOKEN"
    )
    options = registered(rest, tmp_path)
    assert (options["warehouse"], options["endpoint"]) == ("lake", "https://catalog")
    assert options["token_env_var"] == "LAKE_TOKEN" and options["catalog_properties"] == {}


def test_a_source_comes_back_from_the_registry_as_one_of_feast(tmp_path):
    source = source_of(IcebergSnapshots(tmp_path / "lake"), tmp_path)
    back = DataSource.from_proto(source.to_proto())
    assert type(back) is IcebergSource
    assert back == source
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("key", "value", "variable"),
    [
        ("s3.secret-access-key", "x", "S3__SECRET_ACCESS_KEY"),
        ("s3.access-key-id", "x", "S3__ACCESS_KEY_ID"),
        ("s3.session-token", "x", "S3__SESSION_TOKEN"),
        ("token", "x", "TOKEN"),
        ("credential", "x", "CREDENTIAL"),
        ("client.secret-access-key", "x", "CLIENT__SECRET_ACCESS_KEY"),
        ("gcs.oauth2.token", "x", "GCS__OAUTH2__TOKEN"),
        ("adls.account-key", "x", "ADLS__ACCOUNT_KEY"),
        ("adls.connection-string", "x", "ADLS__CONNECTION_STRING"),
        ("adls.sas-token", "x", "ADLS__SAS_TOKEN"),
        ("uri", POSTGRES.format(":hunter2"), "URI"),
    ],
)
def test_nothing_secret_goes_into_the_registry(key, value, variable):
    with pytest.raises(InvalidInput, match="hold nothing secret") as refused:
        IcebergSnapshots("s3://lake", catalog_properties={key: value})
    assert value not in str(refused.value).replace(variable, "") or value == "x"
    assert f"variable PYICEBERG_CATALOG__ACTIVITY_EMBEDDINGS__{variable} " in str(refused.value)


def test_the_address_of_a_catalog_may_come_from_the_environment(tmp_path):
    """As the error says; pyiceberg reads its environment when it is imported."""

    name = "PYICEBERG_CATALOG__ACTIVITY_EMBEDDINGS__URI"
    (tmp_path / "sub").mkdir()
    code = (
        "from activity_embeddings import IcebergSnapshots\n"
        "from pathlib import Path\n"
        "place = IcebergSnapshots('s3://lake')\n"
        "source = place.source('v', '1', Path('.'), name='n', timestamp_field='t')\n"
        "print(source.get_catalog_client().properties['uri'])"
    )
    uri = f"sqlite:///{tmp_path}/sub/c.db"

    done = processes.run(code, **{name: uri})
    assert done.stdout.strip() == uri, done.stderr


def test_a_catalog_that_the_environment_cannot_name_is_refused():
    with pytest.raises(InvalidInput, match="catalog_name should have no underscore"):
        IcebergSnapshots("s3://lake", catalog_name="my_lake")


@pytest.mark.parametrize(
    ("store", "suits"),
    [
        ("activity_embeddings.OrderedDuckDBOfflineStore", True),
        ("duckdb", True),
        ("activity_embeddings.OrderedSparkOfflineStore", True),
        ("activity_embeddings.OrderedDaskOfflineStore", False),
    ],
)
def test_an_offline_store_that_reads_no_iceberg_tables_is_refused_at_apply(tmp_path, store, suits):
    config = RepoConfig(
        project="p",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        offline_store={"type": store},
        online_store={
            "type": "activity_embeddings.ThreadedSqliteOnlineStore",
            "path": str(tmp_path / "online.db"),
        },
        batch_engine={"type": "activity_embeddings.ActivityComputeEngine"},
        repo_path=tmp_path,
        entity_key_serialization_version=3,
    )
    source = source_of(IcebergSnapshots(tmp_path / "lake"), tmp_path)
    if suits:
        source.validate(config)
    else:
        with pytest.raises(InvalidInput, match=rf"joins Iceberg tables.*Received: {store}"):
            source.validate(config)
    assert not (tmp_path / "lake").exists()
