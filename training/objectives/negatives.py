"""Negatives of the proxy task: items that a member did not act on, drawn for each positive."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from activity_embeddings.training.examples.held_out import HeldOut
from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.ragged import bisect, ranges
from activity_embeddings.transformations.spec import ActivitySpec
from activity_embeddings.transformations.times import MICROSECONDS_PER_DAY

DRAWS = 8
"""Times an item is drawn and rejected before the allowed ones are listed, which costs more."""
LISTED_AT_ONCE = 1_000_000
"""Items in such lists worked on together: bounds the memory where days have many items."""


def label_names(spec: ActivitySpec) -> tuple[str, ...]:
    """Return the labels by id: PAD, the actions, and the negatives drawn for positive ones."""
    return (*spec.vocabulary, *(f"RAND_NEG_FOR_{action}" for action in spec.actions))


def label_counts(held_out: HeldOut, spec: ActivitySpec) -> dict[str, int]:
    """Return the number of examples of each label; labels without any are left out."""
    counted = np.bincount(held_out.label, minlength=len(label_names(spec)))
    return {name: int(n) for name, n in zip(label_names(spec), counted, strict=True) if n}


def draw_negatives(
    held_out: HeldOut,
    history: ActivityHistory,
    period: Period,
    *,
    shift: timedelta = timedelta(hours=1),
    random: np.random.Generator,
) -> HeldOut:
    """Draw one negative for each positive: the same member, another item, another moment.

    Held-out activities are mostly positive (86 % in the sample data), and what a member dismissed
    is close to what the member wanted: telling the two apart says little about which items suit
    whom. So each positive gets an item drawn uniformly from the distinct items that any member
    acted on during the same UTC day, before the period's end. Left out are items that the member
    acted on in the window before the negative's time, or on that day, and items without a vector
    at that time; a positive for which none remains gets no negative.

    The negative's time differs from the positive's by a uniform random amount in either
    direction, as far as that stays within the same day and the period. Its input is the member's
    real activity strictly before its own time, as it would be at serving: drawn rows never enter
    an input. Negatives with less input than `Windows.minimum` asked of their positives can occur
    where the shift goes back, and stay: serving meets such members too.

    Parameters
    ----------
    held_out
        From `hold_out`.
    history, period
        What it was made from.
    shift
        The largest shift, default 1 hour.
    random
        Draws items and shifts.

    Returns
    -------
    HeldOut
        The negatives alone, in the order of their positives, with the label
        `RAND_NEG_FOR_<action of the positive>`.
    """
    spec = history.spec
    positive = np.flatnonzero(np.isin(held_out.label, spec.positive_ids))
    member, own_time = held_out.member[positive], held_out.sequences.as_of[positive]
    day = own_time // MICROSECONDS_PER_DAY
    day_start = day * MICROSECONDS_PER_DAY
    day_end = np.minimum(day_start + MICROSECONDS_PER_DAY, period.end_us)
    reach = shift // timedelta(microseconds=1)
    earliest = np.maximum(own_time - reach, np.maximum(day_start, period.start_us))
    latest = np.minimum(own_time + reach, day_end - 1)
    time = random.integers(earliest, latest, endpoint=True)

    items = history.items_of_days.items
    low, high = history.items_of_days.slices(day, period.end_us)
    acted_on = _ActedOn(history)
    # The window before the time, which lies within the day, and the day itself are one interval.
    taboo_from = np.minimum(time - spec.window_us, day_start)

    def allowed(i: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Return whether the items may be drawn for the positives `i`, bool."""
        known = history.rows(drawn, time[i]) != history.vectors.pad_row
        return known & ~acted_on(member[i], drawn, taboo_from[i], day_end[i])

    item = np.full(len(positive), -1, dtype=np.int32)
    i = np.arange(len(positive))
    for _ in range(DRAWS):
        drawn = items[random.integers(low[i], high[i])]
        accepted = allowed(i, drawn)
        item[i[accepted]] = drawn[accepted]
        i = i[~accepted]
    for part in _parts(i, (high - low)[i], LISTED_AT_ONCE):
        sizes = (high - low)[part]
        owner, drawn = np.repeat(part, sizes), items[ranges(low[part], sizes)]
        accepted = allowed(owner, drawn)
        drawn, count = drawn[accepted], np.bincount(owner[accepted], minlength=len(item))[part]
        any_left = count > 0
        place = (np.cumsum(count) - count)[any_left] + random.integers(0, count[any_left])
        item[part[any_left]] = drawn[place]

    found = item >= 0
    positive, member, item, time = positive[found], member[found], item[found], time[found]
    return HeldOut(
        sequences=history.sequences(member, time),
        member=member,
        event=held_out.event[positive],
        item=item,
        item_rows=history.rows(item, time),
        label=(held_out.label[positive] + len(spec.actions)).astype(np.int16),
    )


def _parts(values: np.ndarray, sizes: np.ndarray, most: int) -> list[np.ndarray]:
    """Cut an array into parts whose sizes sum to at most `most`, or of one value."""
    parts, first = [], 0
    before = np.concatenate([[0], np.cumsum(sizes)])
    while first < len(values):
        last = int(np.searchsorted(before, before[first] + most, side="right")) - 1
        last = max(last, first + 1)
        parts.append(values[first:last])
        first = last
    return parts


def concatenate(one: HeldOut, other: HeldOut) -> HeldOut:
    """Return the examples of the first, then those of the second."""
    having = [] if one.sequences.session is None else ["session"]
    sequences = Sequences(
        **{
            name: np.concatenate([getattr(one.sequences, name), getattr(other.sequences, name)])
            for name in ("item", "action", "time", "as_of", "count", "unknown", *having)
        },
        item_ids=one.sequences.item_ids,
        session_ids=one.sequences.session_ids,
    )
    columns = ("member", "event", "item", "item_rows", "label")
    return HeldOut(
        sequences=sequences,
        **{name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in columns},
    )


class _ActedOn:
    """Answers whether a member acted on an item within an interval of time."""

    def __init__(self, history: ActivityHistory) -> None:
        events = history.events
        self._items = max(len(events.item_ids), 1)
        pair = events.member.astype(np.int64) * self._items + events.item
        # Stable, and events of a member are in order of time: so they stay, within each pair.
        order = np.argsort(pair, kind="stable")
        self._pair, self._time = pair[order], events.time[order]
        self._last = len(order) - 1

    def __call__(
        self, member: np.ndarray, item: np.ndarray, start: np.ndarray, end: np.ndarray
    ) -> np.ndarray:
        """Return bool [n]: an event with `start <= t < end`; times in microseconds."""
        pair = member.astype(np.int64) * self._items + item
        low = np.searchsorted(self._pair, pair, side="left")
        high = np.searchsorted(self._pair, pair, side="right")
        first = bisect(self._time, low, high, start, right=False)
        return (first < high) & (self._time[np.minimum(first, self._last)] < end)
