"""What the first rows of a user's files tell."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from activity_embeddings.training.new_repo import heads
from activity_embeddings.training.new_repo.settings import Content
from activity_embeddings.transformations.errors import InvalidInput
from support.feast_repo import us

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
TIMES = pa.timestamp("us", "UTC")


def head_of(tmp_path, **columns):
    file = tmp_path / "file.parquet"
    pq.write_table(pa.table(columns), file)
    return heads.read_head(file)


def ids(*values):
    return pa.array(values or [1, 2])


@pytest.mark.parametrize(
    ("columns", "member", "item"),
    [
        (["job_id", "member_id"], "member_id", "job_id"),
        (["UserId", "ProductID"], "UserId", "ProductID"),
        (["visitor", "sku", "batch"], "visitor", "sku"),
        (["id", "viewing_user", "watched_film_id"], "viewing_user", "watched_film_id"),
        (["a", "b"], None, None),
        (["user_id", "b"], "user_id", None),
    ],
)
def test_member_and_item_are_found_by_name(tmp_path, columns, member, item):
    head = head_of(tmp_path, **{name: ids() for name in columns})
    assert heads.member_column(head) == member
    assert heads.item_column(head, member) == item


def test_columns_that_cannot_be_ids_are_no_member(tmp_path):
    head = head_of(tmp_path, user=pa.array([1.5, 2.5]), user_name=["a", "b"])
    assert heads.member_column(head) == "user_name"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([1, 2], pa.int32()), "int"),
        (pa.array(["a", "b"], pa.large_string()), "string"),
        (pa.array(["a", "b"]).dictionary_encode(), "string"),
    ],
)
def test_ids_are_integers_or_text(tmp_path, values, kind):
    assert head_of(tmp_path, who=values).id_type("who") == kind


def test_ids_of_another_type_are_refused(tmp_path):
    head = head_of(tmp_path, who=pa.array([1.5]))
    with pytest.raises(InvalidInput, match=r"'who' should hold ids, int64 or string.*double"):
        head.id_type("who")


def test_the_action_is_text_with_few_values_and_the_most_frequent_comes_first(tmp_path):
    head = head_of(
        tmp_path,
        user=[f"u{i}" for i in range(60)],
        type=[f"t{i}" for i in range(60)],
        verb=["look"] * 10 + ["buy"] * 30 + ["add"] * 10 + [None] * 10,
    )
    assert heads.action_column(head) == "verb"
    assert head.values("verb") == ["buy", "add", "look"]


def test_a_column_that_is_taken_is_not_the_action(tmp_path):
    head = head_of(tmp_path, activity=["a"], event=["b"])
    assert heads.action_column(head) == "activity"
    assert heads.action_column(head, ["activity", None]) == "event"


def test_the_time_is_a_timestamp_with_a_zone(tmp_path):
    zoned, naive = pa.array([NOON], TIMES), pa.array([NOON.replace(tzinfo=None)])
    assert heads.time_column_of(head_of(tmp_path, ts=naive, whenever=zoned)) == "whenever"
    two = head_of(tmp_path, created_at=zoned, ts=zoned)
    assert heads.time_column_of(two) == "ts"
    assert heads.time_column_of(head_of(tmp_path, x=zoned, y=zoned)) is None
    assert heads.time_column_of(head_of(tmp_path, ts=naive)) == "ts"  # to be refused by its name


def test_actions_that_sound_like_a_refusal_are_not_positive():
    negative = ["skip", "unlike", "HIDE", "hidden", "jobDismissed", "not_interested", "thumbs_down"]
    negative += ["unfollow", "UNSUBSCRIBED", "uninstall", "unfavorite", "cancel", "cancellation"]
    negative += ["return", "item_returned", "return_request", "refund", "block", "blocked", "mute"]
    negative += ["muted", "decline", "withdrawn", "delete", "discard", "abandon_cart"]
    positive = ["buy", "add", "download", "notify_me", "orchid", "play_piano", "noted"]
    positive += ["follow", "subscribe", "install", "returning", "return_visit", "returning_visit"]
    positive += ["unblock", "blockbuster_view", "unmute", "commute", "mutual_follow"]
    assert heads.positive_actions([*negative, *positive]) == positive
    assert heads.positive_actions(["DISMISS"]) == ["DISMISS"]


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("job_id", "job"),
        ("JobID", "job"),
        ("sku", "sku"),
        ("article key", "article"),
        ("course_code", "course"),
        ("id", "item"),
        ("2nd", "item"),
        ("\ufb01sh_id", "item"),
    ],
)
def test_items_are_called_after_the_column_of_their_ids(column, name):
    assert heads.item_name(column) == name


def test_vectors_are_lists_of_floats_with_the_length_of_the_first(tmp_path):
    head = head_of(
        tmp_path,
        v=pa.array([None, [1.0, 2.0, 3.0]]),
        fixed=pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2)),
        counts=pa.array([[1, 2]] * 2),
        nothing=pa.array([[], None], pa.list_(pa.float64())),
    )
    assert head.vectors() == {"v": 3, "fixed": 2}


def test_what_an_encoder_can_read_has_a_type_in_feast(tmp_path):
    head = head_of(
        tmp_path,
        job_id=ids(),
        title=["a", "b"],
        year=pa.array([1, 2], pa.int16()),
        pay=[1.5, 2.5],
        skills=[["x"], []],
        posted=pa.array([NOON] * 2, TIMES),
        open=[True, False],
    )
    assert head.contents(without=["job_id"]) == [
        Content("title", "String"),
        Content("year", "Int64"),
        Content("pay", "Float32"),
        Content("skills", "Array(String)"),
    ]


def test_of_a_folder_the_first_file_that_a_run_reads_is_looked_at(tmp_path):
    for name in ("_temporary/0.parquet", "b.parquet", "c/000000_0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({name[0]: [1]}), tmp_path / name)
    pq.write_table(pa.schema({"0": pa.int64()}).empty_table(), tmp_path / "0.parquet")
    (tmp_path / "_SUCCESS").touch()
    assert heads.read_head(tmp_path).columns == ["b"]
    (tmp_path / "b.parquet").unlink()
    assert heads.read_head(tmp_path).columns == ["c"]


def test_a_hidden_file_that_a_run_refuses_is_refused(tmp_path):
    for name in ("_hidden.parquet", "b.parquet"):
        pq.write_table(pa.table({name[0]: [1]}), tmp_path / name)
    with pytest.raises(InvalidInput, match=r"Received: _hidden.parquet. Rename it"):
        heads.read_head(tmp_path)


def test_a_file_without_rows_still_tells_its_columns(tmp_path):
    file = tmp_path / "empty.parquet"
    pq.write_table(pa.schema({"user": pa.int64()}).empty_table(), file)
    assert heads.read_head(file).id_type("user") == "int"


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "an empty folder"),
        (lambda path: path.write_text("a,b\n1,2\n"), "convert CSV and JSON lines first"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, make, received):
    path = tmp_path / "events"
    make(path)
    with pytest.raises(InvalidInput, match=rf"events: expected a.* parquet file.*{received}"):
        heads.read_head(path)


def test_the_newest_time_comes_from_the_footers_of_all_files(tmp_path):
    for name, hour in (("a.parquet", 3), ("000000_0", 9)):
        times = pa.array([NOON.replace(hour=hour)], TIMES)
        pq.write_table(pa.table({"ts": times, "n": [1]}), tmp_path / name)
    assert heads.last_time(tmp_path, "ts") == us(NOON.replace(hour=9))
    assert heads.last_time(tmp_path / "a.parquet", "ts") == us(NOON.replace(hour=3))
    assert heads.last_time(tmp_path, "n") is None
    pq.write_table(pa.table({"ts": times}), tmp_path / "c.parquet", write_statistics=False)
    assert heads.last_time(tmp_path, "ts") is None
