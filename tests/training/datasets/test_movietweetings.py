"""The films: what the raw lines become, what is refused, and what is committed."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from activity_embeddings.training.datasets.base import (
    EVENTS_FILE,
    EVENTS_SCHEMA,
    POSTINGS_FILE,
    README_FILE,
)
from activity_embeddings.training.datasets.movietweetings import (
    FILMS,
    LICENSE_FILE,
    POSTINGS_SCHEMA,
    main,
    prepare_movietweetings,
)

PROJECT = Path(__file__).parents[3]
RATINGS = """\
2::0000030::5::1362000060
1::0000020::8::1362000060
1::0000010::7::1362000060
3::0000099::10::1362000000
1::0000030::6::1362000120
2::0000010::0::1362000120
"""
MOVIES = """\
0000030::Été (2) (2013)::
0000010::The Bank: Part 1 (1915)::Comedy|Short
0000020::Heat (1995)::Crime
"""


@pytest.fixture
def raw_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "ratings.dat").write_text(RATINGS, encoding="utf-8")
    (folder / "movies.dat").write_text(MOVIES, encoding="utf-8")
    (folder / "LICENSE").write_text("The licence\n", encoding="utf-8")
    return folder


def test_ratings_become_actions_sorted_by_time_member_and_item(raw_dir: Path, tmp_path: Path):
    prepare_movietweetings(raw_dir, tmp_path / "out")

    events = pq.read_table(tmp_path / "out" / EVENTS_FILE)
    assert events.schema.equals(EVENTS_SCHEMA)
    at = [datetime(2013, 2, 27, 21, minute, tzinfo=UTC) for minute in (20, 21, 22)]
    assert [tuple(row.values()) for row in events.to_pylist()] == [
        (3, 99, "APPLY", at[0]),
        (1, 10, "SAVE", at[1]),
        (1, 20, "APPLY", at[1]),
        (2, 30, "DISMISS", at[1]),
        (1, 30, "SAVE", at[2]),
        (2, 10, "DISMISS", at[2]),
    ]


def test_movies_become_postings_with_the_year_apart(raw_dir: Path, tmp_path: Path):
    prepare_movietweetings(raw_dir, tmp_path / "out")

    postings = pq.read_table(tmp_path / "out" / POSTINGS_FILE)
    assert postings.schema.equals(POSTINGS_SCHEMA)
    night = datetime(2013, 2, 28, 4, tzinfo=UTC)
    assert [tuple(row.values()) for row in postings.to_pylist()] == [
        (10, "The Bank: Part 1", 1915, ["Comedy", "Short"], night),
        (20, "Heat", 1995, ["Crime"], night),
        (30, "Été (2)", 2013, [], night),
    ]


def test_a_posting_is_known_the_night_after_its_first_event_or_else_from_the_start(
    raw_dir: Path, tmp_path: Path
):
    later = "1::10::8::1362096000\n2::40::8::1362182399\n"  # 1 March 00:00:00 and 23:59:59
    (raw_dir / "ratings.dat").write_text(RATINGS + later, encoding="utf-8")
    more = "40::Late (2013)::\n50::Never (2013)::\n"
    (raw_dir / "movies.dat").write_text(MOVIES + more, encoding="utf-8")
    counts = prepare_movietweetings(raw_dir, tmp_path / "out")

    postings = pq.read_table(tmp_path / "out" / POSTINGS_FILE).to_pylist()
    known = {row["job_id"]: row["event_timestamp"] for row in postings}
    assert known[10] == datetime(2013, 2, 28, 4, tzinfo=UTC)
    assert known[40] == datetime(2013, 3, 2, 4, tzinfo=UTC)
    assert known[50] == datetime(2013, 2, 27, tzinfo=UTC)
    assert counts["postings_without_events"] == 1


def test_counts_include_the_events_on_items_without_a_posting(raw_dir: Path, tmp_path: Path):
    assert prepare_movietweetings(raw_dir, tmp_path / "out") == {
        "events": 6,
        "members": 3,
        "items_in_events": 4,
        "APPLY": 2,
        "SAVE": 2,
        "DISMISS": 2,
        "postings": 3,
        "postings_without_genres": 1,
        "postings_without_events": 0,
        "unknown_items": 1,
        "events_on_unknown_items": 1,
    }


def test_licence_and_a_readme_lie_beside_the_data(raw_dir: Path, tmp_path: Path):
    prepare_movietweetings(raw_dir, tmp_path / "out")

    assert (tmp_path / "out" / LICENSE_FILE).read_text() == "The licence\n"
    readme = (tmp_path / "out" / README_FILE).read_text()
    assert "proxy domain" in readme
    assert "2013-02-27 to 2013-02-27" in readme
    assert str(tmp_path) not in readme


def test_line_order_does_not_change_the_bytes(raw_dir: Path, tmp_path: Path):
    prepare_movietweetings(raw_dir, tmp_path / "once")
    for name in ("ratings.dat", "movies.dat"):
        lines = (raw_dir / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (raw_dir / name).write_text("".join(reversed(lines)), encoding="utf-8")
    prepare_movietweetings(raw_dir, tmp_path / "again")

    for name in (EVENTS_FILE, POSTINGS_FILE, README_FILE):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ratings.dat", "1::2::8::1362000000\n1::2::8\n", "ratings.dat, line 2: expected user_id"),
        ("ratings.dat", "1::2::11::1362000000\n", "ratings.dat, line 1: a rating"),
        ("ratings.dat", "1::2::-1::1362000000\n", "ratings.dat, line 1: expected user_id"),
        ("ratings.dat", "1::2::8::1362000000\n\n", "ratings.dat, line 2: expected user_id"),
        ("ratings.dat", "", "ratings.dat, line 1: expected at least one line"),
        (
            "movies.dat",
            "1::Heat (1995)::Crime\n2::Ran::War\n",
            "movies.dat, line 2: expected movie",
        ),
        ("movies.dat", "1::A (1995)::\n01::B (1996)::\n", "movies.dat, line 2: expected one line"),
        ("movies.dat", "1::\udce9 (1995)::\n", "movies.dat, line 1: expected UTF-8"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(
    raw_dir: Path, tmp_path: Path, name: str, text: str, message: str
):
    (raw_dir / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        prepare_movietweetings(raw_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["ratings.dat", "movies.dat", "LICENSE"])
def test_a_missing_file_is_named(raw_dir: Path, tmp_path: Path, name: str):
    (raw_dir / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        prepare_movietweetings(raw_dir, tmp_path / "out")


def test_the_command_prints_the_counts_or_the_error(raw_dir: Path, tmp_path: Path, capsys):
    main(["--raw", str(raw_dir), "--out", str(tmp_path / "out")])
    assert "events_on_unknown_items: 1" in capsys.readouterr().out

    with pytest.raises(SystemExit, match="2"):
        main(["--raw", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "ratings.dat is missing" in capsys.readouterr().err


def test_the_committed_films_are_whole():
    data = PROJECT / FILMS.folder
    events = pq.read_table(data / EVENTS_FILE)
    postings = pq.read_table(data / POSTINGS_FILE)

    assert events.schema.equals(EVENTS_SCHEMA)
    assert postings.schema.equals(POSTINGS_SCHEMA)
    assert (events.num_rows, postings.num_rows) == (79_570, 10_506)
    assert {
        row["values"]: row["counts"] for row in pc.value_counts(events["action"]).to_pylist()
    } == {
        "APPLY": 40_111,
        "SAVE": 27_982,
        "DISMISS": 11_477,
    }
    first = {}
    for event in events.select(["job_id", "event_timestamp"]).to_pylist():
        first.setdefault(event["job_id"], event["event_timestamp"])
    for row in postings.to_pylist():
        # Never known before somebody acted on it, but for those that nobody ever did.
        assert row["event_timestamp"] > first.get(row["job_id"], datetime.min.replace(tzinfo=UTC))
    keys = [("event_timestamp", "ascending"), ("member_id", "ascending"), ("job_id", "ascending")]
    assert events.equals(events.sort_by(keys))
    assert "Permission is hereby granted" in (data / LICENSE_FILE).read_text()
