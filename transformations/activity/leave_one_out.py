"""A sequence and what is left of it without each of its activities, as one batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.ragged import with_last


def leave_one_out(sequence: Sequences) -> Sequences:
    """Return a sequence of n activities, and n more, the i-th without the i-th activity.

    Older activities move up, and nothing takes the oldest place: an event that was too old to be
    among the newest `length` stays out.

    Parameters
    ----------
    sequence
        One sequence.

    Returns
    -------
    Sequences
        N + 1 sequences; activities are left out oldest first.
    """
    (length,), (count,) = sequence.item.shape[1:], sequence.count
    position = np.arange(length)
    removed = np.concatenate([[-1], np.arange(length - count, length)])
    # Position -1 is PAD: what moves into the oldest place.
    source = position - (position <= removed[:, None])

    def shortened(values: np.ndarray, pad: int) -> np.ndarray:
        return with_last(values[0], pad)[source]

    several = sequence.take(np.zeros(count + 1, dtype=np.int64))
    left_out = (removed >= 0).astype(np.int32)
    return replace(
        several,
        item=shortened(sequence.item, -1),
        action=shortened(sequence.action, 0),
        time=shortened(sequence.time, 0),
        count=several.count - left_out,
        event=None if sequence.event is None else shortened(sequence.event, -1),
        session=None if sequence.session is None else shortened(sequence.session, -1),
    )
