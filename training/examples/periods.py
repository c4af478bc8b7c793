"""Periods of training: one split by time for everything that is fitted, chosen or measured."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.times import parse_datetime, to_us


def become_utc(owner: object, what: str, *fields: str) -> None:
    """Replace the times in fields of a frozen dataclass by UTC datetimes.

    Parameters
    ----------
    owner
        The dataclass, while it is made.
    what
        How errors call it.
    fields
        Their names.

    Raises
    ------
    InvalidInput
        A value is no time, or has no zone.
    """
    for name in fields:
        moment = parse_datetime(getattr(owner, name), f"{what}: `{name}`", zone=True)
        object.__setattr__(owner, name, moment)


@dataclass(frozen=True)
class Period:
    """The moments `start <= t < end`.

    Parameters
    ----------
    start, end
        Times with a zone, `start` before `end`; they become UTC datetimes. See
        `activity_embeddings.transformations.times.Time`.

    Raises
    ------
    InvalidInput
        One is no time or has no zone, or they are not in order.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        become_utc(self, "period", "start", "end")
        if self.start >= self.end:
            raise InvalidInput(
                f"period: `start` should be before `end`. Received: {self.start}, {self.end}"
            )

    @property
    def start_us(self) -> int:
        """Start in microseconds since the epoch."""
        return to_us(self.start)

    @property
    def end_us(self) -> int:
        """End in microseconds since the epoch."""
        return to_us(self.end)

    def to_dict(self) -> dict[str, str]:
        """Return the period as JSON values."""
        return {"start": self.start.isoformat(), "end": self.end.isoformat()}


@dataclass(frozen=True)
class TimeSplit:
    """Train, validation and test periods that follow each other without overlap.

    What is fitted sees `train` alone, what is chosen is chosen on `validation`, and `test` is
    looked at once. Held-out activities lie within a period; the activity that they are told from
    may be older, as at serving.

    Parameters
    ----------
    start, validation_start, test_start, end
        Times with a zone, ascending; they become UTC datetimes.

    Raises
    ------
    InvalidInput
        One is no time or has no zone, or they are not in order.
    """

    start: datetime
    validation_start: datetime
    test_start: datetime
    end: datetime

    def __post_init__(self) -> None:
        become_utc(self, "split by time", "start", "validation_start", "test_start", "end")
        # Each raises if its own two are not in order.
        _ = self.train, self.validation, self.test

    @property
    def train(self) -> Period:
        """From `start` to `validation_start`."""
        return Period(self.start, self.validation_start)

    @property
    def validation(self) -> Period:
        """From `validation_start` to `test_start`."""
        return Period(self.validation_start, self.test_start)

    @property
    def test(self) -> Period:
        """From `test_start` to `end`."""
        return Period(self.test_start, self.end)

    def to_dict(self) -> dict[str, Any]:
        """Return the three periods as JSON values."""
        return {name: getattr(self, name).to_dict() for name in ("train", "validation", "test")}
