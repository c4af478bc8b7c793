"""Times are int64 microseconds since the epoch, UTC; datetimes are for people and for Feast.

`parse_time` is the one place where a time that a user gave becomes such a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np

from activity_embeddings.transformations.errors import InvalidInput, received

Time: TypeAlias = datetime | date | np.datetime64 | float | np.integer | np.floating | str
"""A datetime (also of pandas), a date, a numpy datetime64, seconds since the epoch, or an ISO 8601
string. What has no zone is UTC."""
TIMES = "a datetime, a date, a numpy datetime64, seconds since the epoch or an ISO 8601 string"
"""How errors call what `parse_time` takes."""
LARGEST_SECONDS = 1e11
"""Epoch seconds past this (the year 5138) are milliseconds sent by mistake."""

SECOND = 1_000_000
MICROSECONDS_PER_DAY = 86_400 * SECOND
ALWAYS, NEVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max
"""Before and after every time."""
CLOCK_TOLERANCE = 60 * SECOND
"""How far ahead of this machine's clock a time may lie, for clocks that differ."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE = 60 * SECOND
_HOUR = 60 * _MINUTE


@dataclass(frozen=True)
class Schedule:
    """When runs compute values, and when these are available.

    Parameters
    ----------
    interval_us
        Distance of the cut-offs in microseconds. The grid contains the epoch, so that an interval
        of one day gives every midnight UTC.
    delay_us
        From a cut-off to when its values are available, microseconds.
    """

    interval_us: int
    delay_us: int = 0

    @classmethod
    def every(cls, *, hours: float, delay_minutes: float = 0) -> Schedule:
        """Return the schedule of an interval in hours and a delay in minutes."""
        return cls(round(hours * _HOUR), round(delay_minutes * _MINUTE))

    @property
    def interval_hours(self) -> float:
        """Distance of the cut-offs."""
        return self.interval_us / _HOUR

    @property
    def delay_minutes(self) -> float:
        """From a cut-off to when its values are available."""
        return self.delay_us / _MINUTE

    def cutoffs(self, start: int, end: int) -> list[int]:
        """Return the as-of times of an interval (start, end]: the grid in it, and its end.

        Both are microseconds since the epoch.
        """
        first = (start // self.interval_us + 1) * self.interval_us
        return sorted({*range(first, end + 1, self.interval_us), end})

    def newest(self, time: np.ndarray) -> np.ndarray:
        """Return the newest cut-off of the grid that is available at each time, int64 [n]."""
        return (time - self.delay_us) // self.interval_us * self.interval_us


def to_datetime(us: int) -> datetime:
    """Return microseconds since the epoch as a UTC datetime."""
    return _EPOCH + timedelta(microseconds=int(us))


def to_us(moment: datetime) -> int:
    """Return microseconds since the epoch; a naive datetime is taken as UTC, as in Feast."""
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def parse_time(value: Any, what: str, *, zone: bool = False) -> int:
    """Return a time that a user gave as microseconds since the epoch.

    What is finer than microseconds is cut.

    Parameters
    ----------
    value
        See `Time`.
    what
        How errors call it.
    zone
        Whether a time without a zone is refused. Otherwise it is UTC, as in Feast. Seconds since
        the epoch have no need of one.

    Raises
    ------
    InvalidInput
        It is no time: another type, NaT or NaN, text that is not ISO 8601, or milliseconds.

    Examples
    --------
    >>> parse_time("2024-03-01T12:00:00.5Z", "start") == parse_time(1709294400.5, "start")
    True
    """
    try:
        us, has_zone = _parse(value)
    except (ValueError, TypeError, OverflowError) as error:
        milliseconds = " (milliseconds?)" if _is_number(value) and _is_large(value) else ""
        raise InvalidInput(
            f"{what} should be {TIMES}. Received: {received(value)}{milliseconds}"
        ) from error
    if zone and not has_zone:
        raise InvalidInput(f"{what} should have a time zone. Received: {received(value)} (naive)")
    return us


def parse_datetime(value: Any, what: str, *, zone: bool = False) -> datetime:
    """Return a time that a user gave as a UTC datetime; see `parse_time`."""
    return to_datetime(parse_time(value, what, zone=zone))


_FIRST_US, _LAST_US = to_us(datetime.min), to_us(datetime.max)


def _parse(value: Any) -> tuple[int, bool]:
    """Return microseconds, and whether the value says its zone; an error where it is no time."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if _is_number(value):
        # Of 32 bits, seconds of today would be minutes off.
        if _is_large(value) or (isinstance(value, np.floating) and value.itemsize < 8):
            raise ValueError
        exact = int(value) if isinstance(value, int | np.integer) else float(value)
        return _within_range(round(exact * SECOND)), True
    if isinstance(value, datetime):
        if value != value:  # NaT of pandas, which workers do without: it takes half of their start
            raise ValueError
        if hasattr(value, "to_pydatetime"):
            value = value.to_pydatetime(warn=False)
        if value.utcoffset() is None:
            return to_us(value.replace(tzinfo=None)), False
        return _within_range(to_us(value)), True
    if isinstance(value, date):
        return to_us(datetime(value.year, value.month, value.day)), False
    if isinstance(value, np.datetime64):
        us = value.astype("datetime64[us]")
        # A year past what 64 bits hold comes out as another time; NaT equals nothing.
        finer = np.datetime_data(value.dtype)[0] in ("ns", "ps", "fs", "as")
        if not finer and us.astype(value.dtype) != value:
            raise ValueError
        return _within_range(int(us.astype(np.int64))), False
    raise TypeError


def _within_range(us: int) -> int:
    """Return the time itself; `OverflowError` where a datetime cannot hold it, as for NaT."""
    if not _FIRST_US <= us <= _LAST_US:
        raise OverflowError
    return us


def _is_number(value: Any) -> bool:
    """Return whether a value is a real number; numpy's time differences are integers to numpy."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(
        value, bool | np.timedelta64
    )


def _is_large(value: Any) -> bool:
    """Return whether a number cannot be seconds of these millennia; NaN cannot."""
    return not -LARGEST_SECONDS <= value <= LARGEST_SECONDS
