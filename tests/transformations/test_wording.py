"""Durations, counts, shares and times read right for none, one, few, many and nearly all."""

import doctest
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activity_embeddings.transformations import wording
from activity_embeddings.transformations.wording import counted, duration, out_of, share, utc

UNITS = {
    "day": timedelta(days=1),
    "hour": timedelta(hours=1),
    "minute": timedelta(minutes=1),
    "second": timedelta(seconds=1),
    "millisecond": timedelta(milliseconds=1),
    "microsecond": timedelta(microseconds=1),
}
LENGTHS = st.one_of(
    st.timedeltas(timedelta(0), timedelta(days=40_000)),
    st.builds(lambda n, unit: n * UNITS[unit], st.integers(1, 500), st.sampled_from(list(UNITS))),
)


def test_the_examples_of_the_docstrings_hold():
    failed, tried = doctest.testmod(wording)
    assert tried >= 8
    assert failed == 0


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(days=28), "28 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(days=365), "365 days"),
        (timedelta(days=10_000), "10,000 days"),
        (timedelta(hours=12), "12 hours"),
        (timedelta(hours=36), "36 hours"),
        (timedelta(hours=100), "4 days and 4 hours"),
        (timedelta(minutes=90), "90 minutes"),
        (timedelta(minutes=150), "2 hours and 30 minutes"),
        (timedelta(seconds=1), "1 second"),
        (timedelta(seconds=1.5), "1 second and 500 milliseconds"),
        (timedelta(days=28, hours=1, seconds=5), "28 days, 1 hour and 5 seconds"),
        (timedelta(milliseconds=20), "20 milliseconds"),
        (timedelta(microseconds=1), "1 microsecond"),
        (timedelta(0), "0 seconds"),
        (-timedelta(hours=12), "minus 12 hours"),
    ],
)
def test_a_duration_is_said_in_its_own_units(length, text):
    assert duration(length) == text


@given(LENGTHS)
def test_a_duration_loses_nothing(length):
    parts = re.findall(r"(\d[\d,]*) ([a-z]+)", duration(length))
    numbers = [(int(number.replace(",", "")), unit) for number, unit in parts]
    assert all(unit.endswith("s") == (number != 1) for number, unit in numbers)
    total = sum((number * UNITS[unit.removesuffix("s")] for number, unit in numbers), timedelta(0))
    assert total == length


@given(st.integers(2, 10**12), st.sampled_from(["row", "snapshot", "member", "new event"]))
def test_many_are_counted_with_an_s_and_thousands_apart(number, noun):
    assert counted(number, noun) == f"{number:,} {noun}s"


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "snapshot", "no snapshots"),
        (1, "snapshot", "1 snapshot"),
        (0, "activity", "no activities"),
        (1, "query", "1 query"),
        (3, "query", "3 queries"),
        (3, "day", "3 days"),
        (2, "match", "2 matches"),
        (2, "class", "2 classes"),
    ],
)
def test_none_and_one_are_said_as_such(number, noun, text):
    assert counted(number, noun) == text


def test_a_plural_of_its_own_is_taken():
    assert counted(2, "person", "people") == "2 people"
    assert counted(0, "person", "people") == "no people"
    assert out_of(1, 2, "person", "people") == "1 of 2 people"


def test_some_of_a_number():
    assert out_of(1, 1, "row") == "1 of 1 row"
    assert out_of(1_000, 2_000, "row") == "1,000 of 2,000 rows"
    assert out_of(0, 1, "row") == "none of 1 row"
    assert out_of(0, 0, "row") == "no rows"


@given(st.integers(0, 10**9), st.integers(1, 10**9), st.integers(0, 3))
def test_a_share_is_0_or_100_percent_only_if_it_is(part, whole, digits):
    part = min(part, whole)
    text = share(part, whole, digits=digits)
    shown = re.fullmatch(r"(under |over )?([\d.]+) %", text)
    if part == 0 or part == whole:
        assert text == ("0 %" if part == 0 else "100 %")
        return
    assert 0 < float(shown[2]) < 100
    exact, step = 100 * part / whole, 10.0**-digits
    if shown[1] == "under ":
        assert exact < float(shown[2]) == pytest.approx(step)
    elif shown[1] == "over ":
        assert exact > float(shown[2]) == pytest.approx(100 - step)
    else:
        assert float(shown[2]) == pytest.approx(exact, abs=step / 2 * (1 + 1e-9))


def test_a_share_of_nothing_is_0_percent():
    assert share(0, 0) == "0 %"
    assert share(0.0) == "0 %"
    assert share(1.0) == "100 %"
    assert share(0.25) == "25.0 %"


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)))
def test_a_time_loses_nothing(time):
    text = utc(time)
    assert text.endswith(" UTC")
    assert datetime.fromisoformat(text.removesuffix(" UTC")).replace(tzinfo=UTC) == time


def test_a_time_of_another_zone_is_said_in_utc():
    assert utc(datetime(2024, 3, 1, 1, tzinfo=timezone(timedelta(hours=2)))) == (
        "2024-02-29 23:00 UTC"
    )
    assert utc(datetime(2024, 3, 1, 12, 30, 15)) == "2024-03-01 12:30:15 UTC"
