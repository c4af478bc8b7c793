"""Examples that look ahead: one activity held out, and the activity before it as input.

A query is (member, time of the held-out activity), answered by `make_sequences`: the input is
what serving would have seen at that moment. So neither activities at the same time as the
held-out one nor later ones are part of its input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from activity_embeddings.training.examples.history import ActivityHistory, is_own
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.errors import require_at_least
from activity_embeddings.transformations.spec import ActivitySpec


@dataclass(frozen=True)
class Windows:
    """Which of a member's activities are held out.

    Of a member's n activities in the period the newest is held out and the n - 1 before it are
    the input. Where there are more than `ActivitySpec.length`, a window of that many slides over
    them: the activity `stride` older is held out next, and so on, as long as it and the input
    before it fill the window. Of a spec that keeps places for kinds of activity the places that are
    kept for none are the window, since the others may stay empty.

    Parameters
    ----------
    minimum
        Members with fewer input activities are left out; 3 means at least 4 in all. With 0 an
        activity with nothing before it counts too, and its input is empty.
    stride
        How far the window slides, default 1.
    prefixes
        Whether windows that are not full slide as well, so that every activity after the first
        `minimum` is held out in turn. Most members have short histories (a median of 2 activities
        in the sample data), from which one row a member would learn little.
    per_member
        Maximum number of rows of one member, drawn again in every epoch. In the sample data 1 % of
        the members account for 14 % of the activities of a training period; 32 is one full
        sequence, reached by few, so nearly all rows stay and nobody counts more than a full
        sequence does.
    """

    minimum: int = 3
    stride: int = 1
    prefixes: bool = False
    per_member: int | None = 32

    def __post_init__(self) -> None:
        require_at_least("windows", 0, minimum=self.minimum)
        require_at_least("windows", 1, stride=self.stride)
        if self.per_member is not None:
            require_at_least("windows", 1, per_member=self.per_member)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """n examples: an input sequence, one item, and what the member did with it.

    Attributes
    ----------
    sequences
        The n inputs; `sequences.as_of` is the time of the held-out activity.
    member
        int [n]; position in `events.member_ids`.
    event
        int64 [n]; position in `events` of the held-out activity, or of the one that a negative was
        drawn for.
    item
        int32 [n]; position in `vectors.item_ids`.
    item_rows
        int32 [n]; row of the item's vector as of `sequences.as_of`.
    label
        int16 [n]; id of the action, or of what takes its place; see `label_names`.
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


def hold_out(
    history: ActivityHistory,
    period: Period,
    *,
    windows: Windows | None = None,
    among: np.ndarray | None = None,
    random: np.random.Generator,
) -> HeldOut:
    """Hold out activities of each member in a period.

    Of a spec with several kinds of activity those on the domain's own items; all kinds are input.

    Parameters
    ----------
    history
        Events from at least the spec's window before the period on. Activity on items without a
        vector at its time is neither held out nor part of an input.
    period
        Held-out activities lie in it.
    windows
        Which are held out, default `Windows()`.
    among
        bool [E], default all True. Which events may be held out.
    random
        Draws where a member has more rows than `windows.per_member`.

    Returns
    -------
    HeldOut
        In the order of `history.events`: by member, then time.
    """
    windows = windows or Windows()
    events, spec = history.events, history.spec
    known = history.vectors.known_at(events.item_ids)[events.item] <= events.time
    inside = (events.time >= period.start_us) & (events.time < period.end_us) & known
    inside &= is_own(events.action, spec)
    if among is not None:
        inside &= among
    event = np.flatnonzero(inside)
    member = events.member[event]
    newer = _newer_of_group(member)
    chosen = newer % windows.stride == 0
    # Only members with this many activities before can have as many in the window.
    before = event - events.member_start[member]
    chosen &= before >= windows.minimum
    if not windows.prefixes:
        chosen &= (newer == 0) | (before >= spec.shared_places - 1)
    event, member, newer = event[chosen], member[chosen], newer[chosen]

    sequences = history.sequences(member, events.time[event])
    kept = sequences.count >= windows.minimum
    if not windows.prefixes:
        kept &= (newer == 0) | (sequences.count >= spec.shared_places - 1)
    rows = np.flatnonzero(kept)
    if windows.per_member is not None:
        rows = rows[sample_per_group(windows.per_member, member[rows], random)]
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


def _newer_of_group(group: np.ndarray) -> np.ndarray:
    """Return how many later elements of a sorted array are equal to each."""
    return np.searchsorted(group, group, side="right") - np.arange(len(group)) - 1


def sample_per_group(most: int, group: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return whether each row is among at most `most` randomly chosen ones of its group, bool [n].

    Parameters
    ----------
    most
        Maximum number of rows of one group.
    group
        int [n], ascending; the group of each row.
    random
        Draws the rows.
    """
    order = np.lexsort((random.random(len(group)), group))
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(group, group[order], side="left")
    return rank < most
