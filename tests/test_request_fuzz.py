"""Some thousand malformed requests to a real `feast serve`: each is refused with one clear message.

Good requests are changed at random, but the same each time. None is answered 5xx, and the good ones
in between are answered as if nothing had happened.
"""

import http.client
import json
import math
import random
import re
from copy import deepcopy
from urllib.parse import urlsplit

import pytest

from support.feast_repo import at, small_repo
from support.feast_server import feast_server

pytestmark = [pytest.mark.slow, pytest.mark.process]

REQUESTS = 3000
GOOD_EVERY = 50
CNN = "job_activity_embedding_cnn_realtime"
T = at(4).isoformat()

# Views of somebody else: another entity, and an on-demand view with a column of the request.
OTHERS = """
from entities import member
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from feast.value_type import ValueType
from views import domain

page = Entity(name="page", join_keys=["page_id"], value_type=ValueType.STRING)


def clicks(entity, key, kind):
    return FeatureView(
        name=f"{entity.name}_clicks",
        entities=[entity],
        source=FileSource(name=f"{entity.name}_clicks", path="none", timestamp_field="at"),
        schema=[Field(name=key, dtype=kind), Field(name="clicks", dtype=Int64)],
    )


page_clicks = clicks(page, "page_id", String)
member_clicks = clicks(member, "member_id", Int64)


@on_demand_feature_view(
    sources=[page_clicks, RequestSource(name="scale", schema=[Field(name="scale", dtype=Float64)])],
    schema=[Field(name="scaled", dtype=Float64)],
    mode="python",
)
def scaled_clicks(inputs):
    # Feast does not hold values to the declared type.
    scales = [scale if isinstance(scale, float) else 1.0 for scale in inputs["scale"]]
    return {"scaled": [(count or 0) * scale for count, scale in zip(inputs["clicks"], scales)]}


mixed = FeatureService(
    name="mixed",
    features=[domain.realtime["cnn"], page_clicks, scaled_clicks],
)
"""

NEW = {
    "recent_job_ids": [[1, 2], None, [3]],
    "recent_job_actions": [["APPLY", "SAVE"], None, ["DISMISS"]],
    "recent_job_timestamps": [[1709510400.5, 1709510401.25], None, [1709510402.0]],
    "request_timestamp": [T, T, T],
}
MEMBERS = {"member_id": [14, 2, 999]}
GOOD = [
    {"feature_service": "recommendations_v2_realtime", "entities": {**MEMBERS, **NEW}},
    {"feature_service": "search_v1_realtime", "entities": {**MEMBERS, **NEW}},
    {"feature_service": "recommendations_v2", "entities": MEMBERS},
    {
        "features": [f"{CNN}:activity_embedding", "member_clicks:clicks"],
        "entities": {**MEMBERS, **NEW},
        "full_feature_names": True,
    },
    {"features": ["job_embedding:embedding"], "entities": {"job_id": [1, 2]}},
    {
        "feature_service": "mixed",
        "entities": {**MEMBERS, **NEW, "page_id": ["a", "b", "c"], "scale": [1.5, 2.5, 0.0]},
    },
    {"features": ["page_clicks:clicks"], "entities": {"page_id": ["a", "b"]}},
]
DEEP = {'"<deep>"': "[" * 900 + "]" * 900, '"<too deep>"': "[" * 50_000 + "]" * 50_000}
NUMBERS = [0, -1, 1, 7, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**40, 0.0, -0.0, 1.5, 1e12, 1e300]
STRINGS = ["", " ", "7", "x", "APPLY", "a\0b", "\ud800", "\udfff", "now", "noon\nnow", "x" * 5000]
TIMES = [
    "2024-03-01",
    "2024-13-01",
    "2024-03-01T00:00:00+99:00",
    "0001-01-01",
    "9999-12-31",
    "\u0663",
]
LISTS = [[], [[]], [None], [1], ["x"], [[1]], [[1], ["x"]], [[[1]]], [1, "x"], [1, None], [1.5, 1]]
OBJECTS = [{}, {"a": 1}, [{}], [[{}]], {"member_id": [1]}, [True], list(range(50))]
OTHER = [None, True, False, math.nan, math.inf, -math.inf, "\U0001f600", "<deep>", "<too deep>"]
STRANGE = [*NUMBERS, *STRINGS, *TIMES, *LISTS, *OBJECTS, *OTHER]
NAMES = [
    "member",
    "member_id",
    "job_id",
    "page",
    "page_id",
    "scale",
    "recent_job_ids",
    "x",
    "",
    "a\0",
]
NAMES += [
    "request_timestamp",
    "entities",
    "feature_service",
    "features",
    "full_feature_names",
    "\ud800",
]
REFERENCES = ["x", ":", "x:", ":x", "x:y", f"{CNN}:x", f"{CNN}:", f"{CNN}@v1:activity_embedding"]
REFERENCES += [
    "job_activity:job_id",
    "job_embedding:embedding",
    "recommendations_v2",
    "page_clicks:*",
]
TYPES = ["text/plain", "application/octet-stream", "", "application/x-www-form-urlencoded", "x"]
TYPES += ["application/json; charset=latin-1", "application/problem+json", "multipart/form-data"]


def places(value, path=()):
    """Return the paths of all values in a request, the request itself left out."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    found = [path] if path else []
    return found + [place for key in keys for place in places(value[key], (*path, key))]


def change(request, draw):
    """Change one place of a request."""
    found = places(request)
    if not found:
        return
    path = draw.choice(found)
    parent = request
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    kind = draw.randrange(7)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[draw.choice(NAMES)] = parent.pop(key)
    elif kind == 2 and isinstance(parent, list):
        parent.insert(key, deepcopy(draw.choice([parent[key], *STRANGE])))
    elif kind == 3:
        parent[key] = [deepcopy(parent[key])]
    elif kind == 4:
        at_top = draw.choice([request, request.get("entities")])
        if isinstance(at_top, dict):
            at_top[draw.choice(NAMES)] = deepcopy(draw.choice(STRANGE))
    elif kind == 5 and draw.random() < 0.5:
        request["features"] = draw.sample(REFERENCES, draw.randrange(4))
    else:
        parent[key] = deepcopy(draw.choice(STRANGE))


def malformed(draw):
    """Return the body and the type of a request that was good once."""
    request = deepcopy(draw.choice(GOOD))
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        change(request, draw)
    text = json.dumps(request)
    for placeholder, deep in DEEP.items():
        text = text.replace(placeholder, deep)
    body = text.encode()
    kind = draw.randrange(20)
    if kind == 0:
        body = body[: draw.randrange(len(body))]
    elif kind == 1:
        place = draw.randrange(len(body))
        body = body[:place] + bytes([draw.randrange(256)]) + body[place + draw.randrange(2) :]
    elif kind == 2:
        body = draw.choice(
            [b"", b"null", b"[]", b"7", b'"x"', b"\xff\xfe", b"a=1", DEEP['"<too deep>"'].encode()]
        )
    elif kind == 3:
        body = body.replace(b"{", b'{"entities": 1, ', 1)
    return body, draw.choice(TYPES) if draw.random() < 0.05 else "application/json"


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


PARTS = re.compile(
    r"body|entities|request|features|feature_service|full_feature_names"
    r"|Content-Type|include_feature_view_version_metadata|offline"
)


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
