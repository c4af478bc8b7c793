"""Job embeddings: unit vectors that know nothing from the cut-off on, stamped when known."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from training.item_embeddings import fit_job_embeddings, main, write_job_embeddings
from training.movietweetings import EVENTS_FILE, EVENTS_SCHEMA, POSTINGS_FILE, POSTINGS_SCHEMA

CUTOFF = datetime(2024, 3, 10, tzinfo=UTC)


def at(day: int, hour: int = 12) -> datetime:
    return datetime(2024, 3, day, hour, tzinfo=UTC)


def events_table(rows: list[tuple]) -> pa.Table:
    return pa.table(list(zip(*rows, strict=True)), schema=EVENTS_SCHEMA)


def postings_table(rows: list[tuple]) -> pa.Table:
    return pa.table(list(zip(*rows, strict=True)), schema=POSTINGS_SCHEMA)


# Members 1-3 want the nursing jobs 1 and 2, members 4-6 the welding jobs 3 and 4. Job 5 is new
# after the cut-off, job 6 is never acted on, job 7 shares no content with any other and job 8 is
# first acted on exactly at the cut-off. Job 99 has no posting.
POSTINGS = postings_table(
    [
        (1, "Ward nurse", 2021, ["Health"]),
        (2, "Night nurse", 2021, ["Health", "Shift"]),
        (3, "Pipe welder", 2022, ["Metal"]),
        (4, "Ship welder", 2022, ["Metal", "Shift"]),
        (5, "School nurse", 2023, ["Health"]),
        (6, "Yard welder", 2023, ["Metal"]),
        (7, "Ω", 1890, []),
        (8, "Rail welder", 2022, ["Metal"]),
    ]
)
BEFORE = [
    *[(member, job, "APPLY", at(member)) for member in (1, 2, 3) for job in (1, 2)],
    *[(member, job, "SAVE", at(member)) for member in (4, 5, 6) for job in (3, 4)],
    (1, 99, "APPLY", at(3)),
    (1, 3, "DISMISS", at(4)),
]
AFTER = [
    (4, 8, "APPLY", CUTOFF),
    (1, 5, "APPLY", at(11, 23)),
    (2, 5, "SAVE", at(12)),
    (4, 1, "APPLY", at(12)),
    (1, 3, "APPLY", at(13)),
]
EVENTS = events_table([*BEFORE, *AFTER])


def fit(events: pa.Table = EVENTS, postings: pa.Table = POSTINGS, **options) -> pa.Table:
    return fit_job_embeddings(events, postings, **{"cutoff": CUTOFF, "dimension": 8, **options})


def vectors(table: pa.Table) -> np.ndarray:
    return np.array(table["embedding"].to_pylist(), dtype=np.float32)


def shuffled(table: pa.Table) -> pa.Table:
    return table.take(np.random.default_rng(0).permutation(table.num_rows))


@pytest.mark.parametrize("dimension", [2, 3, 8, 64])
def test_every_posting_has_one_unit_vector_of_the_asked_length(dimension: int):
    table = fit(dimension=dimension)

    assert table.schema.equals(
        pa.schema(
            [
                ("job_id", pa.int64()),
                ("embedding", pa.list_(pa.float32())),
                ("event_timestamp", pa.timestamp("us", tz="UTC")),
            ]
        )
    )
    assert table["job_id"].to_pylist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert vectors(table).shape == (8, dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors(table), axis=1), 1, atol=1e-6)


def test_jobs_wanted_by_the_same_members_are_closest():
    cosine = vectors(fit()) @ vectors(fit()).T

    assert cosine[0, 1] > 0.7 > 0.3 > cosine[0, 2]
    assert cosine[2, 3] > 0.7


def test_a_job_without_behaviour_is_placed_by_its_content():
    cosine = vectors(fit()) @ vectors(fit()).T
    nurse, welder, new_nurse, unseen_welder = 0, 2, 4, 5

    assert cosine[new_nurse, nurse] > cosine[new_nurse, welder] + 0.3
    assert cosine[unseen_welder, welder] > cosine[unseen_welder, nurse] + 0.3


@pytest.mark.parametrize(
    "after",
    [
        [],
        [(member, job, "DISMISS", at(20)) for member in range(1, 9) for job in range(1, 9)],
        [(77, 7, "APPLY", CUTOFF)],
    ],
    ids=["deleted", "replaced", "one exactly at the cut-off"],
)
def test_no_vector_depends_on_an_event_from_the_cutoff_on(after: list[tuple]):
    expected, received = fit(), fit(events_table([*BEFORE, *after]))

    assert received["job_id"].equals(expected["job_id"])
    assert received["embedding"].equals(expected["embedding"])


def test_vectors_do_depend_on_the_last_event_before_the_cutoff():
    late = (4, 1, "APPLY", CUTOFF - timedelta(microseconds=1))

    assert not fit(events_table([*BEFORE, late]))["embedding"].equals(fit()["embedding"])


def test_a_later_posting_does_not_move_the_jobs_known_before():
    without_later = fit(
        postings=POSTINGS.filter(pc.is_in(POSTINGS["job_id"], pa.array([1, 2, 3, 4])))
    )

    np.testing.assert_array_equal(vectors(without_later), vectors(fit())[:4])


def test_a_vector_is_stamped_when_a_nightly_job_would_have_made_it():
    stamps = dict(
        zip(*(fit()[name].to_pylist() for name in ("job_id", "event_timestamp")), strict=True)
    )

    assert stamps == {
        1: CUTOFF,
        2: CUTOFF,
        3: CUTOFF,
        4: CUTOFF,
        5: at(12, 4),
        6: CUTOFF,
        7: CUTOFF,
        8: at(11, 4),
    }


def test_a_first_activity_at_midnight_is_stamped_after_the_end_of_that_day():
    table = fit(events_table([*BEFORE, (1, 5, "SAVE", at(15, 0))]))

    assert table["event_timestamp"].to_pylist()[4] == at(16, 4)


def test_a_cutoff_within_a_day_and_zone_is_kept_exactly():
    cutoff = datetime.fromisoformat("2024-03-10T02:30:00+02:00")
    table = fit(cutoff=cutoff)

    assert table["event_timestamp"].to_pylist()[0] == cutoff
    # First acted on at 2024-03-10T00:00Z, half an hour before this cut-off.
    assert table["event_timestamp"].to_pylist()[7] == cutoff


def test_row_order_and_chunks_do_not_matter():
    events = pa.concat_tables([shuffled(EVENTS).slice(0, 5), shuffled(EVENTS).slice(5)])

    assert fit(events, shuffled(POSTINGS)).equals(fit())


def test_the_same_seed_gives_the_same_vectors():
    assert fit(seed=3).equals(fit(seed=3))


def test_the_newest_action_of_a_member_on_a_job_counts():
    changed_mind = [*BEFORE, (1, 1, "DISMISS", at(8))]
    never_wanted = [row for row in BEFORE if row[:2] != (1, 1)] + [(1, 1, "DISMISS", at(1))]

    assert fit(events_table(changed_mind)).equals(fit(events_table(never_wanted)))
    assert not fit(events_table(changed_mind)).equals(fit(events_table(BEFORE)))


def test_missing_genres_equal_none_at_all():
    rows = [tuple(row.values()) for row in POSTINGS.to_pylist()]
    with_null = postings_table([(*row[:3], row[3] or None) for row in rows])

    assert with_null["genres"].null_count == 1
    assert fit(postings=with_null).equals(fit())


def test_one_member_and_one_job_are_enough():
    table = fit(events_table([(1, 1, "APPLY", at(1))]), POSTINGS.slice(0, 1), dimension=64)

    np.testing.assert_allclose(np.linalg.norm(vectors(table), axis=1), 1, atol=1e-6)


def test_the_inputs_are_not_changed():
    events, postings = events_table([*BEFORE, *AFTER]), shuffled(POSTINGS)
    fit(events, postings)

    assert events.equals(EVENTS)
    assert postings.equals(shuffled(POSTINGS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutoff": datetime(2024, 3, 10)}, "`cutoff` should have a time zone"),
        ({"cutoff": at(1, 0)}, "none positive"),
        ({"dimension": 1}, "`dimension` should be at least 2. Received: 1"),
        ({"events": EVENTS.drop_columns(["action"])}, r"without \['action'\]"),
        ({"postings": POSTINGS.drop_columns(["year"])}, r"without \['year'\]"),
        ({"postings": POSTINGS.slice(0, 0)}, "at least one row"),
        ({"postings": pa.concat_tables([POSTINGS, POSTINGS.slice(2, 1)])}, "job_id 3 among"),
        ({"events": events_table([(1, 1, "LIKE", at(1))])}, "Received: 'LIKE'"),
        ({"events": events_table([(None, 1, "SAVE", at(1))])}, "no nulls in `member_id`"),
        ({"postings": postings_table([(1, None, 2020, [])])}, "no nulls in `title`"),
    ],
)
def test_bad_input_is_refused_by_name(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        fit(**changes)


def test_what_is_written_is_what_is_read(tmp_path: Path):
    write_job_embeddings(fit(), tmp_path / "vectors.parquet")

    assert pq.read_table(tmp_path / "vectors.parquet").equals(fit())


def test_the_command_writes_beside_its_inputs(tmp_path: Path, capsys):
    (tmp_path / EVENTS_FILE).parent.mkdir()
    pq.write_table(EVENTS, tmp_path / EVENTS_FILE)
    pq.write_table(POSTINGS, tmp_path / POSTINGS_FILE)
    main(["--data", str(tmp_path), "--cutoff", "2024-03-10", "--dimension", "8"])

    assert pq.read_table(tmp_path / "job_embeddings.parquet").equals(fit())
    assert "8 jobs, 8 dimensions, 2 of them known only after" in capsys.readouterr().out


@pytest.mark.parametrize("present", [[], [EVENTS_FILE]])
def test_the_command_names_what_is_missing(tmp_path: Path, capsys, present: list[str]):
    for name in present:
        (tmp_path / name).parent.mkdir()
        pq.write_table(EVENTS, tmp_path / name)
    with pytest.raises(SystemExit, match="2"):
        main(["--data", str(tmp_path), "--cutoff", "2024-03-10"])
    assert (POSTINGS_FILE if present else EVENTS_FILE) in capsys.readouterr().err


def test_the_sample_data_gives_every_posting_a_unit_vector():
    data = Path(__file__).parents[2] / "feature_repo" / "data"
    postings = pq.read_table(data / POSTINGS_FILE)
    table = fit_job_embeddings(
        pq.read_table(data / EVENTS_FILE), postings, cutoff=datetime(2013, 5, 1, tzinfo=UTC)
    )

    assert table["job_id"].equals(postings["job_id"])
    assert vectors(table).shape == (10_506, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors(table), axis=1), 1, atol=1e-6)
    assert pc.min(table["event_timestamp"]).as_py() == datetime(2013, 5, 1, tzinfo=UTC)
