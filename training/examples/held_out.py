"""Examples of the proxy task: one activity held out, and the activity before it as input.

A query is (member, time of the held-out activity), answered by `make_sequences`: the input is
what serving would have seen at that moment. Activities tied in time with the held-out one are
therefore not part of its input, nor is anything later.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.transformations.activity.sequences import MICROSECONDS_PER_DAY, Sequences
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.ragged import bisect, ranges
from activity_embeddings.transformations.spec import ActivitySpec

DRAWS = 8
"""Times an item is drawn and rejected before the allowed ones are listed, which costs more."""
LISTED_AT_ONCE = 1_000_000
"""Items in such lists worked on together: bounds the memory where days have many items."""


def label_names(spec: ActivitySpec) -> tuple[str, ...]:
    """Return the labels by id: PAD, the actions, and the negatives drawn for positive ones."""
    return (*spec.vocabulary, *(f"RAND_NEG_FOR_{action}" for action in spec.actions))


@dataclass(frozen=True)
class Windows:
    """Which of a member's activities are held out.

    Of a member's n activities in the period the newest is held out and the n - 1 before it are
    the input. Where there are more than `ActivitySpec.length`, a window of that many slides over
    them: the activity `stride` older is held out next, and so on, as long as it and the input
    before it fill the window.

    Parameters
    ----------
    minimum : int. Members with fewer input activities are left out; 3 means at least 4 in all.
    stride : int. How far the window slides, default 1.
    prefixes : bool. Whether windows that are not full slide as well, so that every activity after
        the first `minimum` is held out in turn. Most members have short histories (a median of
        2 activities in the sample data), from which one row a member would learn little.
    per_member : int or None. At most so many rows of one member, drawn anew in every epoch. In
        the sample data 1 % of the members account for 14 % of the activities of a training
        period; 32 is one full sequence, reached by few, so nearly all rows stay and nobody
        counts more than a full sequence does.
    """

    minimum: int = 3
    stride: int = 1
    prefixes: bool = False
    per_member: int | None = 32

    def __post_init__(self) -> None:
        for name in ("minimum", "stride", "per_member"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInput(
                    f"windows: `{name}` should be 1 or more. Received: {name}={value}"
                )


@dataclass(frozen=True, eq=False)
class HeldOut:
    """n examples: an input sequence, one item, and what the member did with it.

    Attributes
    ----------
    sequences : the n inputs; `sequences.as_of` is the time of the held-out activity.
    member : int [n]; position in `events.member_ids`.
    event : int64 [n]; position in `events` of the held-out activity, or of the one that a
        negative was drawn for.
    item : int32 [n]; position in `vectors.item_ids`.
    item_rows : int32 [n]; row of the item's vector as of `sequences.as_of`.
    label : int16 [n]; position in `label_names(spec)`.
    """

    sequences: Sequences
    member: np.ndarray
    event: np.ndarray
    item: np.ndarray
    item_rows: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.event)

    def take(self, index: np.ndarray) -> HeldOut:
        """Return the examples at the positions `index`, or where it is True, in that order."""
        columns = ("member", "event", "item", "item_rows", "label")
        return HeldOut(
            sequences=self.sequences.take(index),
            **{name: getattr(self, name)[index] for name in columns},
        )

    def wanted_new(self, spec: ActivitySpec) -> HeldOut:
        """Return the positive ones on items that are not in the input."""
        repeated = (self.sequences.item == self.item[:, None]).any(axis=1)
        return self.take(np.isin(self.label, spec.positive_ids) & ~repeated)

    def counts(self, spec: ActivitySpec) -> dict[str, int]:
        """Return how many examples each label has, those that are there."""
        counted = np.bincount(self.label, minlength=len(label_names(spec)))
        return {name: int(n) for name, n in zip(label_names(spec), counted, strict=True) if n}


def hold_out(
    history: ActivityHistory,
    period: Period,
    *,
    windows: Windows | None = None,
    random: np.random.Generator,
) -> HeldOut:
    """Hold out activities of each member in a period.

    Parameters
    ----------
    history : with at least the spec's window before the period, where there is any. Activity on
        items without a vector at its time is neither held out nor part of an input.
    period : held-out activities lie in it.
    windows : which are held out, default `Windows()`.
    random : draws where a member has more rows than `windows.per_member`.

    Returns
    -------
    HeldOut
        In the order of `history.events`: by member, then time.
    """
    windows = windows or Windows()
    events, spec = history.events, history.spec
    known = history.vectors.known_at(events.item_ids)[events.item] <= events.time
    inside = (events.time >= period.start_us) & (events.time < period.end_us) & known
    event = np.flatnonzero(inside)
    member = events.member[event]
    newer = _newer_of_group(member)
    chosen = newer % windows.stride == 0
    # Only members with so many activities before can have so many in the window.
    before = event - events.member_start[member]
    chosen &= before >= windows.minimum
    if not windows.prefixes:
        chosen &= (newer == 0) | (before >= spec.length - 1)
    event, member, newer = event[chosen], member[chosen], newer[chosen]

    sequences = history.sequences(member, events.time[event])
    kept = sequences.count >= windows.minimum
    if not windows.prefixes:
        kept &= (newer == 0) | (sequences.count >= spec.length - 1)
    rows = np.flatnonzero(kept)
    if windows.per_member is not None:
        rows = rows[at_most(windows.per_member, member[rows], random)]
    event, member, sequences = event[rows], member[rows], sequences.take(rows)
    item = events.item[event]
    return HeldOut(
        sequences=sequences,
        member=member,
        event=event,
        item=item,
        item_rows=history.rows(item, sequences.as_of),
        label=events.action[event],
    )


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
    whom. So each positive gets an item drawn uniformly from the distinct items that any member acted
    on during the same UTC day, before the period's end. Left out are items that the member acted on
    in the window before the negative's time, or on that day, and items without a vector at that
    time; a positive for which none remains gets no negative.

    The negative's time differs from the positive's by a uniform random amount in either
    direction, as far as that stays within the same day and the period. Its input is the member's
    real activity strictly before its own time, as it would be at serving: drawn rows never enter
    an input. Negatives with less input than `Windows.minimum` asked of their positives can occur
    where the shift goes back, and stay: serving meets such members too.

    Parameters
    ----------
    held_out : from `hold_out`.
    history, period : what it was made from.
    shift : timedelta. The largest shift, default 1 hour.
    random : draws items and shifts.

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
    for some in _parts(i, (high - low)[i], LISTED_AT_ONCE):
        sizes = (high - low)[some]
        of, drawn = np.repeat(some, sizes), items[ranges(low[some], sizes)]
        accepted = allowed(of, drawn)
        drawn, count = drawn[accepted], np.bincount(of[accepted], minlength=len(item))[some]
        any_left = count > 0
        place = (np.cumsum(count) - count)[any_left] + random.integers(0, count[any_left])
        item[some[any_left]] = drawn[place]

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


def both(one: HeldOut, other: HeldOut) -> HeldOut:
    """Return the examples of both, one after the other."""
    sequences = Sequences(
        **{
            name: np.concatenate([getattr(one.sequences, name), getattr(other.sequences, name)])
            for name in ("item", "action", "time", "as_of", "count", "unknown")
        },
        item_ids=one.sequences.item_ids,
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


def _newer_of_group(group: np.ndarray) -> np.ndarray:
    """Return how many later elements of a sorted array are equal to each."""
    return np.searchsorted(group, group, side="right") - np.arange(len(group)) - 1


def at_most(most: int, group: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return bool [n]: a random choice of at most so many rows of each group; groups ascend."""
    order = np.lexsort((random.random(len(group)), group))
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(group, group[order], side="left")
    return rank < most
