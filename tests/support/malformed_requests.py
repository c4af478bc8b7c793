"""Requests for online features that were good once, changed at random."""

import json
import math
import re
from copy import deepcopy

from support.feast_repo import at

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


PARTS = re.compile(
    r"body|entities|request|features|feature_service|full_feature_names"
    r"|Content-Type|include_feature_view_version_metadata|offline"
)
"""What a refusal names."""
