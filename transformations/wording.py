"""Durations, counts, shares and times in words, for reports, errors and descriptions.

Every text that says one of these takes it from here, so that none, one and many read right, and
a value is never rounded into another one: a few are not 0 %, and half a day is not 0 days.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

OWN_PIPELINE = "Log these events with your own pipeline, and push them with `--online-only`"
"""What to do where a push cannot log its events."""

_MICROSECOND = timedelta(microseconds=1)
_UNITS = {
    "day": timedelta(days=1),
    "hour": timedelta(hours=1),
    "minute": timedelta(minutes=1),
    "second": timedelta(seconds=1),
    "millisecond": timedelta(milliseconds=1),
    "microsecond": _MICROSECOND,
}
_READABLE = 100
"""A smaller number of one unit is easier to read than two units: 90 minutes."""


def duration(length: timedelta) -> str:
    """Return a duration in words, exactly.

    Parameters
    ----------
    length
        timedelta.

    Examples
    --------
    >>> duration(timedelta(days=28)), duration(timedelta(days=1)), duration(timedelta(hours=12))
    ('28 days', '1 day', '12 hours')
    >>> duration(timedelta(minutes=90)), duration(timedelta(hours=30))
    ('90 minutes', '30 hours')
    >>> duration(timedelta(days=7, seconds=1)), duration(timedelta(0))
    ('7 days and 1 second', '0 seconds')
    """
    if length < timedelta(0):
        return f"minus {duration(-length)}"
    for unit, size in _UNITS.items():
        number, rest = divmod(length, size)
        if not rest and number and (number < _READABLE or unit == "day"):
            return counted(number, unit)
    parts = []
    for unit, size in _UNITS.items():
        number, length = divmod(length, size)
        if number:
            parts.append(counted(number, unit))
    if not parts:
        return "0 seconds"
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number of things in words.

    Parameters
    ----------
    number
        How many.
    noun
        What is counted, as of one; an adjective may stand before it.
    plural
        Needed where the rules for `s`, `es` and `ies` do not give it.

    Examples
    --------
    >>> counted(0, "event"), counted(1, "snapshot"), counted(2_500, "query")
    ('no events', '1 snapshot', '2,500 queries')
    """
    if number == 1:
        return f"1 {noun}"
    many = _plural(noun) if plural is None else plural
    return f"{number:,} {many}" if number else f"no {many}"


def out_of(part: int, whole: int, noun: str, plural: str | None = None) -> str:
    """Return how many of the counted things.

    Examples
    --------
    >>> out_of(2, 3, "row"), out_of(0, 1_000, "row"), out_of(1, 1, "row")
    ('2 of 3 rows', 'none of 1,000 rows', '1 of 1 row')
    >>> out_of(0, 0, "row")
    'no rows'
    """
    of = counted(whole, noun, plural)
    if not whole:
        return of
    return f"{part:,} of {of}" if part else f"none of {of}"


def are(number: int) -> str:
    """Return the verb of a number of things: `is` for one, else `are`.

    Examples
    --------
    >>> are(0), are(1), are(2)
    ('are', 'is', 'are')
    """
    return "is" if number == 1 else "are"


def share(part: float, whole: float = 1.0, *, digits: int = 1) -> str:
    """Return a share in percent: 0 % for nothing alone, and 100 % for all of it alone.

    Parameters
    ----------
    part, whole
        0 <= part <= whole.
    digits
        Digits after the point, where the share is neither 0 nor 1.

    Examples
    --------
    >>> share(1, 8), share(0, 8), share(8, 8), share(0, 0)
    ('12.5 %', '0 %', '100 %', '0 %')
    >>> share(1, 100_000), share(99_999, 100_000), share(1, 3, digits=0)
    ('under 0.1 %', 'over 99.9 %', '33 %')
    """
    if part <= 0:
        return "0 %"
    if part >= whole:
        return "100 %"
    step = 10.0**-digits
    percent = 100.0 * part / whole
    if percent < step:
        return f"under {step:.{digits}f} %"
    if percent > 100.0 - step:
        return f"over {100.0 - step:.{digits}f} %"
    return f"{percent:.{digits}f} %"


def utc(time: datetime) -> str:
    """Return a time in UTC: minutes, and seconds with their fraction where there are any.

    Parameters
    ----------
    time
        datetime; without a zone it is UTC.

    Examples
    --------
    >>> utc(datetime(2024, 3, 1)), utc(datetime(2024, 3, 1, 12, 30, 15, 500_000))
    ('2024-03-01 00:00 UTC', '2024-03-01 12:30:15.5 UTC')
    """
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    text = time.replace(tzinfo=None).isoformat(" ")
    # Of the seconds and their fraction, what is not zero.
    text = text.rstrip("0") if time.microsecond else text.removesuffix(":00")
    return f"{text} UTC"


def passed_over(files: int) -> str:
    """Return what is said of parquet files of a source that are not read.

    Examples
    --------
    >>> passed_over(1)
    "1 parquet file in folders that begin with '.' or '_' passed over"
    """
    return f"{counted(files, 'parquet file')} in folders that begin with '.' or '_' passed over"


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "z", "ch", "sh")) else f"{noun}s"
