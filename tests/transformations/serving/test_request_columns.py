"""The columns of a request can be what its views take, or are refused by name."""

import pytest

from activity_embeddings.transformations.feast_compat.requests import online_context
from activity_embeddings.transformations.serving.request import InvalidRequest
from activity_embeddings.transformations.serving.request_columns import RequestColumns
from support.feast_repo import (
    OWN_VECTORS,
    STRING_IDS,
    at,
    events_table,
    make_repo,
    small_data,
    vectors_table,
    with_string_ids,
)

REALTIME = ["job_activity_embedding_cnn_realtime:activity_embedding"]
STORED = ["job_activity_sequence:activity_count"]
ITEMS = ["job_embedding:embedding"]
NOTHING = {"recent_job_ids": [None], "recent_job_actions": [None], "recent_job_timestamps": [None]}
TIME = at(4).isoformat()


def applied(path, models, settings=OWN_VECTORS):
    """Return the store of a repo that is applied; nothing need be published for its registry."""
    events, vectors = small_data()
    tables = events_table(events), vectors_table(vectors)
    if settings is STRING_IDS:
        tables = tuple(map(with_string_ids, tables))
    repo = make_repo(path, models, *tables, settings)
    repo.run("apply")
    return repo.store


@pytest.fixture(scope="module")
def integers(tmp_path_factory, models):
    return applied(tmp_path_factory.mktemp("integers") / "repo", models)


@pytest.fixture(scope="module")
def strings(tmp_path_factory, models):
    return applied(tmp_path_factory.mktemp("strings") / "repo", models, STRING_IDS)


def check(store, features, columns):
    context = online_context(store, features, full_names=False)
    return RequestColumns.of(context, store).check(columns)


def request(member=1, **changes):
    return {"member_id": [member], **NOTHING, "request_timestamp": [TIME], **changes}


def recent(items, actions="SAVE", times=TIME):
    columns = dict(zip(NOTHING, (items, actions, times), strict=True))
    return {name: [v if isinstance(v, list) else [v]] for name, v in columns.items()}


@pytest.mark.parametrize("member", [0, 7, -1, 2**63 - 1, -(2**63)])
def test_int64_ids_pass(integers, member):
    assert check(integers, STORED, {"member_id": [member]}) == {"member_id": [member]}
    columns = request(member, **recent(member))
    assert check(integers, REALTIME, columns) == columns


@pytest.mark.parametrize("member", ["7", " ", "7 ", "ümläut", "\U0001f600", "x" * 1000])
def test_string_ids_pass_as_they_are(strings, member):
    assert check(strings, STORED, {"member_id": [member]}) == {"member_id": [member]}
    columns = request(member, **recent(member))
    assert check(strings, REALTIME, columns) == columns


@pytest.mark.parametrize(
    "value", [None, True, 1.0, 7.5, "7", 2**63, -(2**63) - 1, 10**5000, [1], {"a": 1}], ids=type
)
def test_what_is_no_int64_id_is_refused(integers, value):
    for features, columns in (
        (STORED, {"member_id": [1, value]}),
        (REALTIME, request(value)),
        (ITEMS, {"job_id": [value]}),
    ):
        with pytest.raises(InvalidRequest, match=r"'(member|job)_id' should be ids of type int64"):
            check(integers, features, {name: values for name, values in columns.items()})
    with pytest.raises(InvalidRequest, match="recent_job_ids should be ids of type int64"):
        check(integers, REALTIME, request(**recent([value])))


@pytest.mark.parametrize("value", [None, True, 7, 7.5, "a\0", "\0", "\ud800", "a\udfff", [1], {}])
def test_what_is_no_string_id_is_refused(strings, value):
    with pytest.raises(InvalidRequest, match="'member_id' should be ids of type string"):
        check(strings, STORED, {"member_id": ["m", value]})
    with pytest.raises(InvalidRequest, match="recent_job_ids should be ids of type string"):
        check(strings, REALTIME, request("m", **recent([value])))


def test_feast_cannot_tell_empty_strings_from_nothing(strings):
    with pytest.raises(InvalidRequest, match="'member_id' should not be empty strings"):
        check(strings, STORED, {"member_id": [""]})


@pytest.mark.parametrize(
    "column, value",
    [
        ("recent_job_actions", None),
        ("recent_job_actions", 1),
        ("recent_job_actions", ["SAVE"]),
        ("recent_job_actions", {}),
        ("recent_job_actions", "\ud800"),
        ("recent_job_timestamps", None),
        ("recent_job_timestamps", True),
        ("recent_job_timestamps", "noon"),
        ("recent_job_timestamps", 1.7e12),
        ("recent_job_timestamps", float("nan")),
        ("recent_job_timestamps", [TIME]),
        ("recent_job_timestamps", {}),
    ],
)
def test_actions_and_times_that_are_none_are_refused(integers, column, value):
    columns = request(**recent(1)) | {column: [[value]]}
    with pytest.raises(InvalidRequest, match=f"request of member 1: {column} should .*Received"):
        check(integers, REALTIME, columns)


@pytest.mark.parametrize("value", ["", 7, 1.5, True, {}, {"a": 1}])
@pytest.mark.parametrize("column", list(NOTHING))
def test_what_is_no_list_is_refused(integers, column, value):
    with pytest.raises(InvalidRequest, match="should be lists of equal length, or null"):
        check(integers, REALTIME, request(**recent(1)) | {column: [value]})


def test_one_list_of_three_is_refused(integers):
    for column in NOTHING:
        for other in (None, []):
            columns = request() | {name: [other] for name in NOTHING} | {column: [[1]]}
            with pytest.raises(InvalidRequest, match="should be lists of equal length"):
                check(integers, REALTIME, columns)


@pytest.mark.parametrize("value", [True, "soon", 1.7e12, [TIME], {}, 4e9, "9999-12-31"])
def test_a_time_of_the_request_that_is_none_or_in_the_future_is_refused(integers, value):
    with pytest.raises(InvalidRequest, match="request of member 1: request_timestamp should"):
        check(integers, REALTIME, request(request_timestamp=[value]))


def test_empty_lists_become_null_and_the_columns_given_are_not_changed(integers):
    columns = request() | {name: [[]] for name in NOTHING}
    assert check(integers, REALTIME, columns) == request()
    assert columns["recent_job_actions"] == [[]]


def test_times_of_several_types_become_text_and_stay_the_same_moments(integers):
    columns = {
        "member_id": [1, 2],
        "recent_job_ids": [[1, 2]] * 2,
        "recent_job_actions": [["SAVE", "SAVE"]] * 2,
        "recent_job_timestamps": [
            [1_709_294_400, 1_709_294_400.000_001],
            ["2024-03-01", "2024-03-02"],
        ],
        "request_timestamp": [None, TIME],
    }
    got = check(integers, REALTIME, columns)
    assert got["recent_job_timestamps"][0] == [
        "2024-03-01T12:00:00+00:00",
        "2024-03-01T12:00:00.000001+00:00",
    ]
    assert got["request_timestamp"] == [None, TIME]


def test_columns_that_no_view_takes_are_left_out_whatever_they_hold(integers):
    columns = {"member_id": [1], "clicks": [{}], "recent_job_ids": [[]], "\ud800": [None]}
    assert check(integers, STORED, columns) == {"member_id": [1]}


def test_a_key_may_be_called_by_its_entity_but_not_twice(integers):
    assert check(integers, STORED, {"member": [7]}) == {"member": [7]}
    with pytest.raises(InvalidRequest, match="'member' should be ids of type int64"):
        check(integers, STORED, {"member": ["7"]})
    with pytest.raises(InvalidRequest, match="expected member_id once"):
        check(integers, STORED, {"member": [7], "member_id": [7]})


@pytest.mark.parametrize(
    "features, columns, message",
    [
        (STORED, {}, "at least one entity, as a member. Received: none"),
        (STORED, {"member_id": []}, "at least one entity, as a member. Received: none"),
        (STORED, {"x": [1]}, "the column member_id, a join key of .*Received: 'x'"),
        (STORED, {"member_id": [1], "x": [1, 2]}, "equal length.*'member_id' 1, 'x' 2"),
        (REALTIME, {"member_id": [1]}, "expected the columns recent_job_actions, .*as null where"),
        (REALTIME, NOTHING | {"request_timestamp": [None]}, "the column member_id, a join key"),
        ([*STORED, *ITEMS], {"member_id": [1]}, "expected the column job_id, a join key of"),
        (STORED, {"member_id": [1], "job_id": [[1, "x"]]}, "'job_id' should be of one type"),
        (["job_activity:action"], {"member_id": [1]}, "job_activity is kept in the offline"),
    ],
)
def test_missing_and_uneven_columns_are_refused_by_name(integers, features, columns, message):
    with pytest.raises(InvalidRequest, match=message):
        check(integers, features, columns)
