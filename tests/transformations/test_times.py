"""Whatever a user has at hand as a time is one moment, or is refused with what was received."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from activity_embeddings.transformations.errors import InvalidInput, received
from activity_embeddings.transformations.times import (
    Schedule,
    parse_datetime,
    parse_time,
    to_datetime,
    to_us,
)

MOMENT = datetime(2024, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
US = 1_709_294_400_250_000

SAME_MOMENT = {
    "datetime": MOMENT,
    "naive datetime": MOMENT.replace(tzinfo=None),
    "another zone": MOMENT.astimezone(timezone(timedelta(hours=-7))),
    "a zone by name": MOMENT.astimezone(ZoneInfo("America/New_York")),
    "pandas": pd.Timestamp(MOMENT),
    "pandas, nanoseconds": pd.Timestamp(MOMENT) + pd.Timedelta(999, "ns"),
    "pandas, naive": pd.Timestamp("2024-03-01T12:00:00.25"),
    "numpy, milliseconds": np.datetime64("2024-03-01T12:00:00.250"),
    "numpy, nanoseconds": np.datetime64("2024-03-01T12:00:00.250000999"),
    "seconds": US / 1e6,
    "numpy seconds": np.float64(US / 1e6),
    "text": "2024-03-01T12:00:00.25",
    "text, Z": "2024-03-01T12:00:00.25Z",
    "text, zone": "2024-03-01 13:00:00.250000+01:00",
    "text, nanoseconds": "2024-03-01T12:00:00.250000999Z",
    "numpy text": np.str_("2024-03-01T12:00:00.25Z"),
}


@pytest.mark.parametrize("form", SAME_MOMENT)
def test_a_moment_may_come_in_any_form(form):
    assert parse_time(SAME_MOMENT[form], "t") == US
    assert parse_datetime(SAME_MOMENT[form], "t") == MOMENT


@pytest.mark.parametrize(
    "value",
    [
        date(2024, 3, 1),
        np.datetime64("2024-03-01"),
        "2024-03-01",
        1_709_251_200,
        np.int32(1709251200),
        np.datetime64("2024-03"),
        np.uint32(1_709_251_200),
    ],
    ids=lambda value: f"{type(value).__name__} {value}",
)
def test_whole_days_and_whole_seconds(value):
    assert parse_datetime(value, "t") == datetime(2024, 3, 1, tzinfo=UTC)


def test_times_before_1970_are_cut_downwards_like_all_others():
    before = np.datetime64("1969-12-31T23:59:59.999999001")
    assert parse_time(before, "t") == parse_time(pd.Timestamp(before), "t") == -1
    assert to_datetime(parse_time(-1.5, "t")) == datetime(1969, 12, 31, 23, 59, 58, 500_000, UTC)


NO_TIMES = {
    "null": (None, "null"),
    "pandas NaT": (pd.NaT, "NaT"),
    "numpy NaT": (np.datetime64("NaT", "ns"), "NaT"),
    "NaN": (float("nan"), "nan"),
    "infinity": (float("-inf"), "-inf"),
    "true": (True, "True of type bool"),
    "numpy true": (np.True_, "True"),
    "text": ("noon", "'noon'"),
    "no text": ("", "''"),
    "text of seconds": ("1709294400", "'1709294400'"),
    "NUL": ("2024-03-01\0", r"\x00"),
    "a lone surrogate": ("2024-03-01\ud800", r"\ud800"),
    "milliseconds": (US // 1000, "1709294400250 of type int (milliseconds?)"),
    "nanoseconds": (np.int64(US * 1000), "(milliseconds?)"),
    "a number without end": (10**5000, "a value of type int (milliseconds?)"),
    "a difference": (timedelta(1), "timedelta"),
    "numpy's difference": (np.timedelta64(5, "s"), "5"),
    "seconds of 32 bits": (np.float32(1.7e9), "float32"),
    "a year that 64 bits cannot hold": (np.datetime64(300_000, "Y"), "301970"),
    "a year that no datetime holds": (np.datetime64(12_000, "Y"), "13970"),
    "before the year 1": (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), "datetime"),
    "list": ([US], "[1709294400250000] of type list"),
    "object": ({}, "{} of type dict"),
    "bytes": (b"2024-03-01", "bytes"),
    "decimal": (Decimal(1), "Decimal"),
}


@pytest.mark.parametrize("case", NO_TIMES)
def test_what_is_no_time_is_refused_and_shown(case):
    value, shown = NO_TIMES[case]
    with pytest.raises(InvalidInput) as refused:
        parse_time(value, "`until`")
    message = str(refused.value)
    assert message.startswith("`until` should be a datetime, ")
    assert shown in message.split("Received: ")[1]
    assert message.isprintable()


@pytest.mark.parametrize(
    "value",
    [MOMENT.replace(tzinfo=None), "2024-03-01", date(2024, 3, 1), np.datetime64("2024-03-01")],
    ids=str,
)
def test_where_a_zone_is_needed_a_time_without_one_is_refused(value):
    with pytest.raises(InvalidInput, match=r"`until` should have a time zone\. Received: .*naive"):
        parse_time(value, "`until`", zone=True)


@pytest.mark.parametrize(
    "value", [MOMENT, MOMENT.timestamp(), MOMENT.isoformat(), pd.Timestamp(MOMENT)]
)
def test_with_a_zone_or_as_seconds_since_the_epoch_it_needs_nothing_more(value):
    assert parse_time(value, "`until`", zone=True) == US


def test_whatever_was_received_is_quoted_on_one_short_line():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for value in (
        "x" * 10_000,
        "two\nlines",
        "\ud800",
        deep,
        [[1] * 1000] * 1000,
        10**5000,
        object(),
    ):
        shown = received(value)
        assert shown.isprintable()
        assert len(shown) < 400


def us(days):
    """Days after the midnight of 1 March 2024."""
    return to_us(datetime(2024, 3, 1, tzinfo=UTC) + timedelta(days=days))


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 2, [1, 2]),
        (0.5, 2.25, [1, 2, 2.25]),
        (0, 0.5, [0.5]),
        (0.25, 1, [1]),
        (1, 1, [1]),
    ],
)
def test_an_interval_has_each_midnight_after_its_start_and_its_end(start, end, expected):
    assert Schedule.every(hours=24).cutoffs(us(start), us(end)) == [us(day) for day in expected]


def test_a_finer_grid():
    assert Schedule.every(hours=3).cutoffs(us(0), us(0.25)) == [us(0.125), us(0.25)]


def test_a_cut_off_is_available_from_its_delay_on():
    daily = Schedule.every(hours=24, delay_minutes=30)
    delay = 30 * 60 * 1_000_000
    asked = np.array([us(1) + delay - 1, us(1) + delay, us(2)])
    assert daily.newest(asked).tolist() == [us(0), us(1), us(1)]
    assert (daily.interval_hours, daily.delay_minutes) == (24, 30)
