"""Periods are half open, follow each other, and say what is wrong with them."""

from datetime import UTC, datetime, timedelta, timezone

import pandas as pd
import pytest

from activity_embeddings.training.evaluation.plan import Timeline
from activity_embeddings.training.examples.periods import Period, TimeSplit
from activity_embeddings.transformations.errors import InvalidInput


def day(number):
    return datetime(2013, 5, number, tzinfo=UTC)


def test_a_period_counts_in_microseconds_of_utc_whatever_its_zone():
    berlin = timezone(timedelta(hours=2))
    period = Period(
        datetime(1970, 1, 1, 2, tzinfo=berlin), datetime(1970, 1, 1, 2, 1, tzinfo=berlin)
    )
    assert (period.start_us, period.end_us) == (0, 60_000_000)
    assert period == Period(
        datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
    )


def test_a_period_without_zone_or_without_length_is_refused():
    with pytest.raises(InvalidInput, match=r"`start` should have a time zone.*2013-05-01.*naive"):
        Period(datetime(2013, 5, 1), day(2))
    with pytest.raises(InvalidInput, match=r"`end` should have a time zone.*naive"):
        Period(day(1), datetime(2013, 5, 2))
    for end in (day(1), day(2)):
        with pytest.raises(InvalidInput, match=r"`start` should be before `end`. Received: 2013"):
            Period(day(2), end)


def test_train_validation_and_test_follow_each_other_without_overlap():
    split = TimeSplit(day(1), day(10), day(20), day(30))
    assert split.train == Period(day(1), day(10))
    assert split.validation == Period(day(10), day(20))
    assert split.test == Period(day(20), day(30))
    assert split.train.end_us == split.validation.start_us
    assert split.validation.end_us == split.test.start_us


@pytest.mark.parametrize("order", [(10, 1, 20, 30), (1, 20, 10, 30), (1, 10, 30, 20), (1, 1, 2, 3)])
def test_a_split_that_is_not_in_order_is_refused(order):
    with pytest.raises(InvalidInput, match="`start` should be before `end`"):
        TimeSplit(*map(day, order))


def test_a_split_is_written_as_json_values():
    assert TimeSplit(day(1), day(2), day(3), day(4)).to_dict() == {
        "train": {"start": "2013-05-01T00:00:00+00:00", "end": "2013-05-02T00:00:00+00:00"},
        "validation": {"start": "2013-05-02T00:00:00+00:00", "end": "2013-05-03T00:00:00+00:00"},
        "test": {"start": "2013-05-03T00:00:00+00:00", "end": "2013-05-04T00:00:00+00:00"},
    }


def test_times_may_come_in_any_form_that_says_its_zone():
    forms = ["2013-05-01T00:00:00Z", 1_368_144_000, pd.Timestamp("2013-05-20", tz="UTC"), day(30)]
    assert TimeSplit(*forms) == TimeSplit(day(1), day(10), day(20), day(30))
    assert TimeSplit(*forms).start == day(1)
    assert Timeline(*forms[1:]) == Timeline(day(10), day(20), day(30))
    assert Timeline(*forms[1:]).rank_from == day(10)


@pytest.mark.parametrize("time", ["soon", pd.NaT, None, 1_368_144_000_000], ids=repr)
def test_what_is_no_time_is_refused_by_name(time):
    with pytest.raises(InvalidInput, match=r"period: `end` should be a datetime.*Received"):
        Period(day(1), time)
    with pytest.raises(InvalidInput, match=r"timeline: `test_from` should be a datetime.*Received"):
        Timeline(day(1), time, day(3))
