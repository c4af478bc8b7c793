"""`feast serve` with TLS, and with tokens that a real OpenID provider over HTTP vouches for."""

import datetime
import ipaddress
import json
import ssl
import time
import urllib.error

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from activity_embeddings import entity_rows
from support.feast_repo import at, small_repo
from support.feast_server import feast_server
from support.oidc_server import new_key, oidc_server

pytestmark = [pytest.mark.slow, pytest.mark.process]

ROWS = entity_rows([14, 15], {14: [(1, "SAVE", at(3.99))]}, request_timestamp=at(4))
STORED = {"feature_service": "recommendations_v2", "entities": {"member_id": [14, 15]}}
AS_OF_REQUEST = {
    "feature_service": "recommendations_v2_realtime",
    "entities": {name: [row[name] for row in ROWS] for name in ROWS[0]},
}
PERMISSIONS = """
from feast import FeatureService
from feast.permissions.action import AuthzedAction
from feast.permissions.permission import Permission
from feast.permissions.policy import GroupBasedPolicy

readers = Permission(
    name="readers",
    types=[FeatureService],
    actions=[AuthzedAction.READ_ONLINE],
    policy=GroupBasedPolicy(groups=["rankers"]),
)
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory, models):
    repo = small_repo(tmp_path_factory.mktemp("secure") / "repo", models)
    repo.publish(at(-41), at(4))
    return repo


@pytest.fixture(scope="module")
def expected(repo):
    """Return the features of both requests, by name, as this process reads them."""
    answers = []
    for service, rows in (
        (STORED["feature_service"], [{"member_id": 14}, {"member_id": 15}]),
        (AS_OF_REQUEST["feature_service"], ROWS),
    ):
        store = repo.store
        answers.append(
            store.get_online_features(store.get_feature_service(service), rows).to_dict()
        )
    assert answers[1]["new_activity_count"] == [1, 0]
    return answers


def answers(server):
    return [server.features(body) for body in (STORED, AS_OF_REQUEST)]


def same(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert one["activity_count"] == other["activity_count"]
        for got_vector, vector in zip(
            one["activity_embedding"], other["activity_embedding"], strict=True
        ):
            assert got_vector == pytest.approx(vector, abs=1e-5)
    return True


def certificate(folder):
    """Write a key and a certificate of 127.0.0.1 that it has signed itself; return their paths."""
    key, now = new_key(), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "features")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    key_file, certificate_file = folder / "key.pem", folder / "certificate.pem"
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return key_file, certificate_file


def test_a_server_speaks_tls(repo, expected, tmp_path):
    key, trusted = certificate(tmp_path)
    tls = ssl.create_default_context(cafile=str(trusted))
    files = ("--key", str(key), "--cert", str(trusted))
    with feast_server(repo, tmp_path / "serve.log", *files, tls=tls) as server:
        assert server.call("/ready")[0] == 200
        assert same(answers(server), expected)
        server.tls = ssl.create_default_context()
        with pytest.raises(urllib.error.URLError, match="self-signed certificate"):
            server.call("/ready")


@pytest.fixture(scope="module")
def provider():
    with oidc_server() as running:
        yield running


@pytest.fixture(scope="module")
def guarded(repo, expected, provider, tmp_path_factory):
    """A server of the repo that asks for tokens, of members of a group."""
    settings = repo.path / "feature_store.yaml"
    before = settings.read_text()
    settings.write_text(before + provider.settings)
    (repo.path / "permissions.py").write_text(PERMISSIONS)
    repo.run("apply")
    with feast_server(repo, tmp_path_factory.mktemp("log") / "serve.log") as server:
        yield server
    settings.write_text(before)


@pytest.fixture
def asks(guarded):
    yield guarded
    guarded.token = None


def test_whoever_has_a_token_is_answered(asks, provider, expected):
    asks.token = provider.token(groups=["rankers"])
    assert same(answers(asks), expected)
    status, answer = asks.ask({**STORED, "feature_service": "none"})
    assert status == 404 and "expected the name of a feature service" in str(answer)


BODIES = {
    "stored": json.dumps(STORED).encode(),
    "as of the request": json.dumps(AS_OF_REQUEST).encode(),
    "unknown service": b'{"feature_service": "none", "entities": {"member_id": [1]}}',
    "not JSON": b"{",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_without_a_token_nothing_is_answered_and_nothing_is_said(asks, body):
    status, answer = asks.post(body)
    assert (status, answer) == (401, {"detail": "Invalid or expired access token"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": time.time() - 60},
        {"aud": "another server"},
        {"iss": "http://another.provider"},
        {"key": new_key()},
    ],
    ids=["expired", "for another server", "of another provider", "by another key"],
)
def test_a_token_that_is_not_right_is_refused(asks, provider, wrong):
    asks.token = provider.token(groups=["rankers"], **wrong)
    assert asks.ask(AS_OF_REQUEST)[0] == 401


WRITES = {
    "/materialize": {"start_ts": "2024-03-01", "end_ts": "2024-03-02"},
    "/write-to-online-store": {"feature_view_name": "job_activity_sequence", "df": {}},
}


@pytest.mark.parametrize("path", WRITES)
def test_who_may_only_read_may_not_write(asks, provider, path):
    asked = json.dumps(WRITES[path]).encode()
    headers = {"Content-Type": "application/json"}
    assert asks.call(path, asked, **headers)[0] == 401
    asks.token = provider.token(groups=["rankers"])
    status, answer = asks.call(path, asked, **headers)
    assert status == 403 and "PermissionError" in str(answer)


def test_who_has_no_permission_is_told_so(asks, provider):
    asks.token = provider.token(groups=["others"])
    status, answer = asks.ask(AS_OF_REQUEST)
    assert status == 403 and "PermissionError" in str(answer)


def test_who_may_read_services_may_not_read_single_features(asks, provider):
    asks.token = provider.token(groups=["rankers"])
    features = ["job_activity_sequence:activity_count"]
    status, answer = asks.ask({"features": features, "entities": STORED["entities"]})
    assert status == 403 and "PermissionError" in str(answer)


def test_probes_need_no_token(asks):
    assert asks.call("/health")[0] == 200
    status, said = asks.call("/ready")
    assert status == 200 and said["problems"] == []
