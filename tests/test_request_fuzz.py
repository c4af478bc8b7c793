"""Some thousand malformed requests to a real `feast serve`: each is refused with one clear message.

Good requests are changed at random, but the same each time. None is answered 5xx, and the good ones
in between are answered as if nothing had happened.
"""

import http.client
import json
import random
from urllib.parse import urlsplit

import pytest

from support.feast_repo import at, small_repo
from support.feast_server import feast_server
from support.malformed_requests import CNN, GOOD, OTHERS, PARTS, malformed

pytestmark = [pytest.mark.slow, pytest.mark.process]

REQUESTS = 3000
GOOD_EVERY = 50


@pytest.fixture(scope="module")
def server(tmp_path_factory, models):
    path = tmp_path_factory.mktemp("fuzz") / "repo"
    repo = small_repo(path, models)
    (repo.path / "others.py").write_text(OTHERS)
    repo.run("apply", "--skip-source-validation")
    repo.materialize(
        at(2),
        at(4),
        *("--views", "job_embedding", "--views", "job_activity_sequence"),
        *("--views", "job_activity_embedding_cnn"),
        *("--views", "job_activity_embedding_unweighted_average"),
        *("--views", "job_activity_embedding_geometric_decay"),
    )
    with feast_server(repo, path.parent / "serve.log") as running:
        yield running


@pytest.fixture
def ask(server):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)

    def post(body, content_type="application/json"):
        headers = {"Content-Type": content_type} if content_type else {}
        connection.request("POST", "/get-online-features", body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    yield post
    connection.close()


def message_of(answer):
    """Return the text of a refusal, which is in the form of Feast's errors."""
    return json.loads(answer)["message"]


def values_of(answer):
    return [column["values"] for column in answer["results"]]


def test_no_request_is_answered_with_an_error_of_the_server(ask):
    draw = random.Random(7)
    good = [json.dumps(request).encode() for request in GOOD]
    expected = [ask(body) for body in good]
    assert [status for status, _ in expected] == [200] * len(GOOD)
    refused = 0
    for number in range(REQUESTS):
        body, content_type = malformed(draw)
        status, answer = ask(body, content_type)
        assert status in (200, 404, 415, 422), (status, body, content_type, answer)
        if status == 200:
            # A key that no view needs may come back in another type.
            needed = b'"features": ["page' not in body
            asked = json.loads(body)["entities"].get("member_id") if needed else None
            names = answer["metadata"]["feature_names"]
            if asked is not None and "member_id" in names:
                shown = answer["results"][names.index("member_id")]["values"]
                assert json.dumps(shown) == json.dumps(asked), body
        else:
            refused += 1
            message = message_of(answer)
            assert message.isprintable(), body
            assert PARTS.search(message), (body, message)
            assert len(message) < 1000
        if number % GOOD_EVERY == 0:
            which = number // GOOD_EVERY % len(good)
            status, answer = ask(good[which])
            assert status == 200
            assert values_of(answer) == values_of(expected[which][1])
    assert refused > REQUESTS / 2


SERVICE = '"feature_service": "recommendations_v2"'
MEMBER = '"entities": {"member_id": [14]}'


@pytest.mark.parametrize(
    "body, status, message",
    [
        ("", 422, "body: expected JSON"),
        ("{", 422, "body: expected JSON"),
        ("[" * 100_000, 422, "body: expected JSON. Received: lists too deep"),
        (b"\xff{}", 422, "body: expected JSON. Received: 'utf-8' codec"),
        ("[]", 422, "body: expected a JSON object. Received: []"),
        (f'{{{SERVICE}, "entities": NaN}}', 422, "body: expected JSON. Received: NaN"),
        (
            f'{{{SERVICE}, "entities": {{"member_id": [1{"0" * 5000}]}}}}',
            422,
            "body: expected JSON",
        ),
        (f"{{{SERVICE}, {SERVICE}, {MEMBER}}}", 422, "the key 'feature_service' twice"),
        (f"{{{SERVICE}}}", 422, "entities: Field required. Received: null or absent"),
        (f'{{{SERVICE}, "entities": [1]}}', 422, "entities: Input should be a valid dictionary"),
        (f'{{{SERVICE}, "entities": {{"member_id": 1}}}}', 422, "entities.member_id: Input should"),
        (
            f'{{"feature_service": 7, {MEMBER}}}',
            422,
            "feature_service: Input should be a",
        ),
        (f'{{"features": [7], {MEMBER}}}', 422, "features.0: Input should be a valid string"),
        (f"{{{MEMBER}}}", 422, "a list of `features`. Received: neither"),
        (f'{{{SERVICE}, "features": ["x:y"], {MEMBER}}}', 422, "`features`. Received: both"),
        (f'{{"feature_service": "x", {MEMBER}}}', 404, "in the registry. Received: 'x'"),
        (f'{{"features": ["x:y"], {MEMBER}}}', 404, "views in the registry. Received: 'x:y'"),
        (f'{{"features": ["{CNN}:y"], {MEMBER}}}', 404, "features: Feature y not found"),
        (f'{{"features": ["x"], {MEMBER}}}', 422, "references such as view:feature"),
        (f'{{"features": ["{CNN}@v2:y"], {MEMBER}}}', 422, "views without a version"),
    ],
)
def test_a_request_that_is_none_says_what_is_expected(ask, body, status, message):
    answer = ask(body if isinstance(body, bytes) else body.encode())
    assert answer[0] == status
    assert message in message_of(answer[1])


def test_a_body_that_is_not_said_to_be_json_is_415(ask):
    body = json.dumps(GOOD[2]).encode()
    for content_type in ("", "text/plain", "application/x-www-form-urlencoded"):
        status, answer = ask(body, content_type)
        assert (status, "expected application/json" in message_of(answer)) == (415, True)
    for content_type in ("application/json; charset=utf-8", "application/problem+json"):
        assert ask(body, content_type)[0] == 200


def test_other_requests_to_the_server_are_answered_as_ever(server):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    for method, path, status in (
        ("GET", "/get-online-features", 405),
        ("GET", "/health", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nothing", 404),
    ):
        connection.request(method, path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status, path
    connection.close()
