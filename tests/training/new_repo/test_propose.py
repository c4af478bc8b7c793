"""Settings of a new feature repo: what the user says goes before what the files show."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from activity_embeddings.training.new_repo import render
from activity_embeddings.training.new_repo.propose import Answers, settings_for
from activity_embeddings.training.new_repo.settings import (
    Content,
    EventSource,
    PostingSource,
    RepoSettings,
    VectorSource,
)
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.spec import ActivitySpec, ItemVectorSpec

TIME = pa.array([datetime(2024, 3, 1, tzinfo=UTC)] * 4, pa.timestamp("us", "UTC"))
EVENTS = pa.table(
    {
        "user_id": ["ann", "bob", "ann", "cat"],
        "sku": [7, 8, 8, 9],
        "verb": ["buy", "skip", "buy", "look"],
        "ts": TIME,
    }
)
VECTORS = pa.table({"sku": [7, 8, 9, 9], "vec": [[1.0, 0.0, 0.5]] * 4, "made": TIME})
POSTINGS = pa.table({"sku": [7, 8, 9, 9], "title": ["a"] * 4, "tags": [["x"]] * 4, "since": TIME})


@pytest.fixture
def files(tmp_path):
    for name, table in {"events": EVENTS, "vectors": VECTORS, "postings": POSTINGS}.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    return tmp_path


def answers(folder, *sources, **said):
    return Answers(**{name: folder / f"{name}.parquet" for name in sources}, **said)


def test_without_files_and_answers_they_are_those_of_the_sample_domain(tmp_path):
    assert settings_for(tmp_path / "my-repo", Answers()) == RepoSettings(project="my_repo")


def test_the_files_tell_columns_types_actions_and_dimension(files):
    made = settings_for(files / "shop", answers(files, "events", "vectors"))
    assert made == RepoSettings(
        project="shop",
        member="user",
        names=DomainNames(item="sku", member_id="user_id", item_id="sku", action="verb"),
        member_type="string",
        item_type="int",
        spec=ActivitySpec(actions=("buy", "look", "skip"), positive_actions=("buy", "look")),
        vector_spec=ItemVectorSpec("item_vectors", "1", 3),
        events=EventSource("../events.parquet", "ts", single_file=True),
        items=VectorSource("../vectors.parquet", "sku", "vec", "made"),
    )


def test_what_the_user_says_goes_before_what_the_files_show(files):
    said = {
        "project": "mine",
        "member_name": "shopper",
        "item_name": "product",
        "actions": ("look", "buy"),
        "positive": ("buy",),
        "ignore_other_actions": True,
        "days": 7.5,
        "length": 20,
        "event_id": "sku",
    }
    with pytest.raises(InvalidInput, match="expected different names"):
        settings_for(files / "shop", answers(files, "events", **said))
    del said["event_id"]
    made = settings_for(files / "shop", answers(files, "events", dimension=5, **said))
    assert (made.project, made.member, made.names.item) == ("mine", "shopper", "product")
    assert made.spec == ActivitySpec(
        timedelta(days=7.5), 20, ("look", "buy"), ("buy",), other_actions="ignore"
    )
    assert made.vector_spec.dimension == 5
    assert made.items == VectorSource(item_id="sku")


def test_without_files_the_user_says_types_and_names(tmp_path):
    said = Answers(member="uid", item="course_id", time="at", event_id="n", item_type="string")
    made = settings_for(tmp_path / "r", said)
    assert made.names == DomainNames(
        item="course", member_id="uid", item_id="course_id", event_id="n"
    )
    assert (made.member_type, made.item_type) == ("int", "string")
    assert made.events == EventSource(time="at", event_id_type="int")


def test_an_encoder_reads_the_other_columns_of_the_postings(files):
    made = settings_for(files / "r", answers(files, "events", "postings", dimension=16))
    assert made.items == PostingSource(
        "../postings.parquet",
        "sku",
        "since",
        [Content("title", "String"), Content("tags", "Array(String)")],
    )
    assert made.vector_spec.dimension == 16
    alone = settings_for(files / "r", Answers(encoder=True))
    assert isinstance(alone.items, PostingSource) and not alone.items.path


@pytest.mark.parametrize("name", ["events.parquet", "000000_0"])
def test_it_is_said_that_a_push_rewrites_a_single_file(files, name):
    (files / "events.parquet").rename(files / name)
    for path, said in (
        (files / name, "`activity-embeddings push` rewrites this file."),
        (files / "folder.parquet", "`activity-embeddings push` adds a file to this folder."),
    ):
        if path.name == "folder.parquet":
            path.mkdir()
            pq.write_table(EVENTS, path / "a.parquet")
        made = settings_for(files / "r", Answers(events=path))
        assert f'description="One row an event; {said}"' in render.sources_py(made)


def test_an_event_id_is_taken_up_where_it_is_called_so(files):
    table = EVENTS.append_column("event_id", pa.array(["a", "b", "c", "d"]))
    pq.write_table(table, files / "events.parquet")
    made = settings_for(files / "r", answers(files, "events"))
    assert made.events.event_id_type == "string"


def test_relative_paths_are_written_relative_to_the_repo(files, monkeypatch):
    monkeypatch.chdir(files)
    made = settings_for(Path("sub/repo"), Answers(events=Path("events.parquet")))
    assert made.events.path == os.path.join("..", "..", "events.parquet")


def test_an_absolute_path_is_relative_where_it_is_in_or_beside_the_repo_and_else_a_url(files):
    said = Answers(events=files / "events.parquet")
    assert settings_for(files / "events.parquet" / ".." / "repo", said).events.path == os.path.join(
        "..", "events.parquet"
    )
    assert settings_for(files, said).events.path == "events.parquet"
    far = settings_for(files / "sub" / "repo", said).events.path
    assert far == f"file://{files}/events.parquet"


def test_a_column_that_neither_tells_is_asked_for(files):
    pq.write_table(EVENTS.rename_columns({"user_id": "a"}), files / "events.parquet")
    asked = []

    def ask(what, columns):
        asked.append((what, list(columns)))
        return "a"

    made = settings_for(files / "r", answers(files, "events"), ask)
    assert made.names.member_id == "a"
    assert asked == [("who acts", ["a", "sku", "verb", "ts"])]


@pytest.mark.parametrize(
    ("renamed", "option", "what"),
    [
        ("user_id", "--member", "who acts"),
        ("sku", "--item", "what was acted on"),
        ("verb", "--action", "what was done"),
    ],
)
def test_an_error_names_the_option_where_nobody_answers(files, renamed, option, what):
    pq.write_table(EVENTS.rename_columns({renamed: "xyz"}), files / "events.parquet")
    with pytest.raises(
        InvalidInput, match=rf"expected a column that says {what}; name it with {option}. .*xyz"
    ):
        settings_for(files / "r", answers(files, "events"))


def test_all_columns_that_are_missing_are_named_at_once(files):
    table = EVENTS.rename_columns({"user_id": "a", "verb": "b"})
    pq.write_table(table, files / "events.parquet")
    message = "columns that say who acts, what was done; name them with --member, --action. "
    with pytest.raises(InvalidInput, match=message):
        settings_for(files / "r", answers(files, "events"))


@pytest.mark.parametrize("source", ["vectors", "postings"])
def test_columns_of_items_have_options_of_their_own(files, source):
    """Two columns may be the item, and two the time."""
    table = {"vectors": VECTORS, "postings": POSTINGS}[source].rename_columns({"sku": "no"})
    table = table.rename_columns([*table.column_names[:-1], "x"])
    table = table.append_column("y", TIME).append_column("lot", pa.array([1, 2, 3, 4]))
    pq.write_table(table, files / f"{source}.parquet")
    said = answers(files, "events", source)
    message = (
        rf"{source}.parquet: expected columns that say which item it is, since when it is valid; "
        "name them with --vector-item, --vector-time. Received columns: no, "
    )
    with pytest.raises(InvalidInput, match=message):
        settings_for(files / "r", said)
    made = settings_for(files / "r", replace(said, vector_item="no", vector_time="y"))
    assert (made.items.item_id, made.items.time) == ("no", "y")
    for option in ("vector_item", "vector_time"):
        flag = f"--{option.replace('_', '-')}"
        with pytest.raises(InvalidInput, match=rf"{flag} gone: expected a column of .*{source}"):
            settings_for(files / "r", replace(said, **{option: "gone"}))


def test_one_of_several_columns_of_vectors_is_named(files):
    pq.write_table(VECTORS.append_column("more", VECTORS["vec"]), files / "vectors.parquet")
    said = answers(files, "events", "vectors", vector_column="more")
    assert settings_for(files / "r", said).items.vector == "more"
    with pytest.raises(InvalidInput, match=r"--vector-column made: expected a column of vectors"):
        settings_for(files / "r", replace(said, vector_column="made"))


def test_without_files_the_user_says_the_columns_of_items(tmp_path):
    said = Answers(vector_item="id", vector_time="made")
    own = settings_for(tmp_path, replace(said, vector_column="vec")).items
    assert own == VectorSource(item_id="id", vector="vec", time="made")
    assert settings_for(tmp_path, replace(said, encoder=True)).items == PostingSource(
        item_id="id", time="made"
    )


def test_an_item_that_is_spelled_otherwise_beside_the_vectors_is_found(files):
    events, vectors = EVENTS.rename_columns({"sku": "EpisodeId"}), VECTORS
    pq.write_table(events, files / "events.parquet")
    pq.write_table(vectors.rename_columns({"sku": "episode_id"}), files / "vectors.parquet")
    made = settings_for(files / "r", answers(files, "events", "vectors"))
    assert (made.names.item_id, made.items.item_id) == ("EpisodeId", "episode_id")
    made = settings_for(files / "r", answers(files, "events", "vectors", item="EpisodeId"))
    assert made.items.item_id == "episode_id"


def test_the_one_column_of_ids_that_both_files_have_is_the_item(files):
    pq.write_table(EVENTS.rename_columns({"sku": "episode_id"}), files / "events.parquet")
    vectors = VECTORS.rename_columns({"sku": "episode_id"}).append_column("user_id", VECTORS["sku"])
    pq.write_table(vectors, files / "vectors.parquet")
    made = settings_for(files / "r", answers(files, "events", "vectors"))
    assert (made.names.item_id, made.names.item) == ("episode_id", "episode")
    # Of two, none is more likely.
    for name, table in {"events": EVENTS, "vectors": VECTORS}.items():
        table = table.rename_columns({"sku": "episode_id"}).append_column("lot", table["sku"])
        pq.write_table(table, files / f"{name}.parquet")
    with pytest.raises(InvalidInput, match=r"what was acted on; name it with --item"):
        settings_for(files / "r", answers(files, "events", "vectors"))


def test_the_one_column_of_ids_beside_vectors_is_the_item(files):
    pq.write_table(VECTORS.rename_columns({"sku": "id"}), files / "vectors.parquet")
    assert settings_for(files / "r", answers(files, "events", "vectors")).items.item_id == "id"


NAIVE = TIME.cast(pa.timestamp("us"))


@pytest.mark.parametrize(
    ("column", "name", "values", "message"),
    [
        ("ts", "timestamp", NAIVE, r"'timestamp' should be .* time zone UTC. .*timestamp\[us\]"),
        ("ts", "ts", pa.array(["2024-03-01"] * 4), "'ts' should be .* UTC. .* string"),
        ("ts", "viewed_at", pa.array([1, 2, 3, 4]), "'viewed_at' should be .* UTC. .* int64"),
        ("ts", "date", TIME.cast(pa.date32()), "'date' should be .* UTC. .* date32"),
        ("ts", "day", TIME.cast(pa.date32()), "'day' should be .* UTC. .* date32"),
        ("user_id", "user_id", pa.array([1.0] * 4), "'user_id' should hold ids, .* double"),
        ("user_id", "UserID", pa.array([b"a"] * 4), "'UserID' should hold ids, .* binary"),
        (
            "sku",
            "item_id",
            pa.array([1] * 4).cast(pa.decimal128(20)),
            r"'item_id' should hold ids, .*decimal128",
        ),
        (
            "verb",
            "action",
            pa.array([1, 2, 1, 2]),
            "'action' should hold names of actions, string. Received: int64",
        ),
    ],
)
def test_a_column_of_a_known_name_and_another_type_is_refused_for_its_type(
    files, column, name, values, message
):
    position = EVENTS.column_names.index(column)
    table = EVENTS.append_column("device", pa.array(["ios"] * 4))
    pq.write_table(table.set_column(position, name, values), files / "events.parquet")
    with pytest.raises(InvalidInput, match=rf"events.parquet: column {message}"):
        settings_for(files / "r", answers(files, "events"))
    option = {"user_id": "member", "sku": "item", "verb": "action", "ts": "time"}[column]
    with pytest.raises(InvalidInput, match=rf"column {message}"):
        settings_for(files / "r", answers(files, "events", **{option: name}))


def test_of_several_columns_of_known_names_and_other_types_none_is_taken(files):
    table = EVENTS.drop_columns(["ts"]).append_column("time", pa.array([1, 2, 3, 4]))
    table = table.append_column("timestamp", pa.array([1, 2, 3, 4]))
    pq.write_table(table, files / "events.parquet")
    with pytest.raises(InvalidInput, match=r"when it was done; name it with --time"):
        settings_for(files / "r", answers(files, "events"))


def test_a_time_without_a_zone_beside_vectors_is_refused_for_its_type(files):
    pq.write_table(VECTORS.set_column(2, "made", NAIVE), files / "vectors.parquet")
    with pytest.raises(InvalidInput, match=r"vectors.parquet: column 'made' should be a timestamp"):
        settings_for(files / "r", answers(files, "events", "vectors"))


def test_an_event_id_is_not_the_action(files):
    table = EVENTS.rename_columns({"verb": "what"}).append_column("event_id", EVENTS["verb"])
    pq.write_table(table, files / "events.parquet")
    with pytest.raises(InvalidInput, match=r"what was done; name it with --action"):
        settings_for(files / "r", answers(files, "events"))


@pytest.mark.parametrize("option", ["member", "item", "action", "time", "event_id"])
def test_a_column_that_is_not_there_is_refused_by_its_option(files, option):
    said = answers(files, "events", **{option: "nowhere"})
    flag = f"--{option.replace('_', '-')}"
    with pytest.raises(InvalidInput, match=rf"{flag} nowhere: expected a column of .*user_id, sku"):
        settings_for(files / "r", said)


@pytest.mark.parametrize(
    ("table", "said", "message"),
    [
        (VECTORS, {"dimension": 9}, "--dimension 9: expected the length of the vectors in .* 3"),
        (VECTORS.drop_columns(["vec"]), {}, "one column of vectors.*Received: none"),
        (
            VECTORS.append_column("more", VECTORS["vec"]),
            {},
            "one called embedding. Received: vec, more. Name one with --vector-column",
        ),
        (
            VECTORS.set_column(0, "sku", VECTORS["sku"].cast(pa.string())),
            {},
            "'sku' should hold ids of the type that they have in .*events.parquet, int. .* string",
        ),
    ],
)
def test_item_vectors_that_do_not_fit_are_refused(files, table, said, message):
    pq.write_table(table, files / "vectors.parquet")
    with pytest.raises(InvalidInput, match=message):
        settings_for(files / "r", answers(files, "events", "vectors", **said))


def test_a_column_called_embedding_is_the_vector_among_several(files):
    table = VECTORS.append_column("embedding", pa.array([[1.0, 2.0]] * 4))
    pq.write_table(table, files / "vectors.parquet")
    made = settings_for(files / "r", answers(files, "events", "vectors"))
    assert (made.items.vector, made.vector_spec.dimension) == ("embedding", 2)


@pytest.mark.parametrize(
    ("option", "kind", "received"),
    [("member", "int", "'user_id' in .*events.parquet, string"), ("item", "string", "'sku' in .*")],
)
def test_a_type_that_the_file_contradicts_is_refused(files, option, kind, received):
    message = rf"--{option}-type {kind}: expected the type of {received}"
    with pytest.raises(InvalidInput, match=message):
        settings_for(files / "r", answers(files, "events", **{f"{option}_type": kind}))
    other = {"int": "string", "string": "int"}[kind]
    settings_for(files / "r", answers(files, "events", **{f"{option}_type": other}))


def test_a_type_that_the_vectors_contradict_is_refused(files):
    with pytest.raises(InvalidInput, match=r"--item-type string: .* 'sku' in .*vectors.parquet"):
        settings_for(files / "r", answers(files, "vectors", item_type="string"))


@pytest.mark.parametrize("name", ["my-project!", "_mine", "-mine", "my project"])
def test_a_project_that_feast_would_refuse_is_refused(tmp_path, name):
    with pytest.raises(InvalidInput, match=rf"--project: .* Received: '{name}'$"):
        settings_for(tmp_path / "r", Answers(project=name))
    assert settings_for(tmp_path / "r", Answers(project="my-project")).project == "my-project"


@pytest.mark.parametrize("said", [{"member_name": "sku"}, {"item_name": "user"}])
def test_a_member_that_is_called_like_the_item_is_refused(files, said):
    name = next(iter(said.values()))
    message = rf"expected different names for the member's and the item's .* {name}, {name}$"
    with pytest.raises(InvalidInput, match=message):
        settings_for(files / "r", answers(files, "events", "vectors", **said))


def test_vectors_and_an_encoder_exclude_each_other(files):
    message = r"--vectors or --vector-column, and --postings or --encoder"
    for more in ({"encoder": True}, {"postings": files / "postings.parquet"}):
        for own in (answers(files, "vectors"), Answers(vector_column="vec")):
            with pytest.raises(InvalidInput, match=message):
                settings_for(files / "r", replace(own, **more))


def test_events_without_rows_need_actions(files):
    pq.write_table(EVENTS.slice(0, 0), files / "events.parquet")
    said = answers(files, "events", member="user_id", item="sku", action="verb", time="ts")
    with pytest.raises(InvalidInput, match=r"Received: none. Name them with --actions"):
        settings_for(files / "r", said)
    made = settings_for(files / "r", replace(said, actions=("buy",)))
    assert made.spec.positive_actions == ("buy",)
