"""Examples as a stream: made for some members at a time, shuffled, and handed out in batches.

No more than one group of members' examples is in memory, whatever their number in all. A group's
examples depend on the seed, the epoch and the group alone, so a run that is resumed after
a kill sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.training.examples.periods import Period
from activity_embeddings.transformations.errors import InvalidData
from activity_embeddings.transformations.wording import counted

Arrays = dict[str, np.ndarray]
"""Arrays by name, with one row an example."""

MEMBERS_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class ExampleStream:
    """Batches of examples, epoch by epoch.

    Parameters
    ----------
    history
        History of all members.
    period
        Held-out activities lie in it; members without any in it are passed over.
    examples
        Makes the examples of the history of some members.
    batch_size
        Rows a batch; the last of an epoch may have fewer.
    seed
        Random seed.
    shuffle
        Whether members and rows come in random order; otherwise they come in the order of `history`
        and every epoch is the first.
    finish
        Called with each batch, to add what is drawn once a batch.
    members_at_once
        Bounds the memory.
    """

    history: ActivityHistory
    period: Period
    examples: Callable[[ActivityHistory, np.random.Generator], Arrays]
    batch_size: int = 256
    seed: int = 0
    shuffle: bool = True
    finish: Callable[[Arrays, np.random.Generator], Arrays] = lambda batch, random: batch
    members_at_once: int = MEMBERS_AT_ONCE

    def groups(self, epoch: int = 0) -> Iterator[tuple[Arrays, np.random.Generator]]:
        """Yield the examples of one group of members after the other."""
        epoch = epoch if self.shuffle else 0
        members = self._members()
        if self.shuffle:
            members = np.random.default_rng([self.seed, epoch]).permutation(members)
        for group, first in enumerate(range(0, len(members), self.members_at_once), start=1):
            random = np.random.default_rng([self.seed, epoch, group])
            part = np.sort(members[first : first + self.members_at_once])
            arrays = self.examples(self.history.of_members(part), random)
            if self.shuffle:
                order = random.permutation(_rows(arrays))
                arrays = {name: values[order] for name, values in arrays.items()}
            yield arrays, random
            # Not kept while the next ones are made.
            del arrays

    def batches(self, epoch: int = 0) -> Iterator[Arrays]:
        """Yield the batches of one epoch."""
        left: Arrays = {}
        random = np.random.default_rng(self.seed)
        for arrays, random in self.groups(epoch):
            if left:
                arrays = {name: np.concatenate([left[name], arrays[name]]) for name in arrays}
            count = _rows(arrays)
            whole = count - count % self.batch_size
            for first in range(0, whole, self.batch_size):
                part = slice(first, first + self.batch_size)
                yield self.finish({name: v[part] for name, v in arrays.items()}, random)
            left = {name: values[whole:].copy() for name, values in arrays.items()}
            del arrays
        if left and _rows(left):
            yield self.finish(left, random)

    def _members(self) -> np.ndarray:
        """Return the members with any activity in the period, ascending, int64."""
        events = self.history.events
        inside = events.time >= self.period.start_us
        inside &= events.time < self.period.end_us
        filled = np.flatnonzero(np.diff(events.member_start))
        # Of bools: whole numbers for every event would outweigh a group's examples.
        return filled[np.logical_or.reduceat(inside, events.member_start[filled])]

    def first(self, epoch: int = 0) -> Arrays:
        """Return a copy of the first batch of an epoch, which does not hold its group.

        Raises
        ------
        InvalidInput
            There are no examples.
        """
        batch = next(self.batches(epoch), None)
        if batch is None:
            raise InvalidData(
                f"examples: expected members with enough activity from {self.period.start} to "
                f"before {self.period.end}. Received: no example of "
                f"{counted(len(self.history.events.member_ids), 'member')} with "
                f"{counted(len(self.history.events), 'activity')} on known items"
            )
        return {name: values.copy() for name, values in batch.items()}


def _rows(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))
