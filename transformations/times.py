"""Times are int64 microseconds since the epoch, UTC; datetimes are for people and for Feast."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(us: int) -> datetime:
    """Return microseconds since the epoch as a UTC datetime."""
    return _EPOCH + timedelta(microseconds=int(us))


def to_us(moment: datetime) -> int:
    """Return microseconds since the epoch; a naive datetime is taken as UTC, as in Feast."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)
