"""Proxy-task examples: one of a member's activities held out, and the activity before it as input.

A query is (member, time of the held-out event), answered by `make_sequences`: the input is what
serving would have seen at that moment. Events tied in time with the held-out one are therefore
not part of its input, nor is anything later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from transformations import names
from transformations.errors import InvalidInput
from transformations.events import ActivityEvents
from transformations.item_vectors import ItemVectors
from transformations.sequences import MICROSECONDS_PER_DAY, Sequences, make_sequences
from transformations.spec import ActivitySpec
from transformations.times import to_us

INPUT_JOB_ROWS = "job_rows"
INPUT_HELD_OUT_ROW = "held_out_row"

MINIMUM_INPUT = 3
"""Input activities of an example; with the held-out one a member has at least 4."""

DRAWS = 64
"""Times a job is drawn again before a positive goes without a negative."""


@dataclass(frozen=True, eq=False)
class ProxyExamples:
    """n examples: an input sequence, one job, and whether the member wanted it.

    Attributes
    ----------
    sequences : the n inputs; `sequences.as_of` is the time of the held-out event.
    held_out_rows : int32 [n]; the job's row of `ItemVectors.matrix` as of that time.
    positive : bool [n]; the held-out action is one of `spec.positive_actions`.
    sampled : bool [n]; a negative whose job was drawn, see `with_same_day_negatives`.
    event : int64 [n]; position of the held-out event in `ActivityEvents`.
    """

    sequences: Sequences
    held_out_rows: np.ndarray
    positive: np.ndarray
    sampled: np.ndarray
    event: np.ndarray

    def __len__(self) -> int:
        return len(self.event)

    def take(self, index: np.ndarray) -> ProxyExamples:
        """Return the examples at the positions `index`, or where it is True, in that order."""
        return ProxyExamples(
            sequences=self.sequences.take(index),
            held_out_rows=self.held_out_rows[index],
            positive=self.positive[index],
            sampled=self.sampled[index],
            event=self.event[index],
        )

    def inputs(self, vectors: ItemVectors) -> dict[str, np.ndarray]:
        """Return what `ProxyTask` takes, by name.

        Job vectors are given as rows of `vectors.matrix`, which the task gathers in its graph:
        128 bytes an example instead of 8 KB at 32 positions of 64 floats.

        Returns
        -------
        dict with `job_rows` int32 [n, L], `actions` int32 [n, L], `ages` float32 [n, L] in days
        and `held_out_row` int32 [n].
        """
        return {
            INPUT_JOB_ROWS: self.sequences.rows(vectors),
            names.INPUT_ACTIONS: self.sequences.action,
            names.INPUT_AGES: self.sequences.ages,
            INPUT_HELD_OUT_ROW: self.held_out_rows,
        }

    def balance(self) -> dict[str, int | float]:
        """Return counts of each kind of example, and the share of positives."""
        positives = int(self.positive.sum())
        return {
            "examples": len(self),
            "positive": positives,
            "negative": int((~self.positive & ~self.sampled).sum()),
            "sampled_negative": int(self.sampled.sum()),
            "positive_share": round(positives / max(len(self), 1), 4),
        }


def make_examples(
    events: ActivityEvents,
    vectors: ItemVectors,
    *,
    spec: ActivitySpec,
    start: datetime,
    end: datetime,
    minimum: int = MINIMUM_INPUT,
) -> ProxyExamples:
    """Hold out every event in a range of time in turn.

    Parameters
    ----------
    events : the event table, with at least `spec.window` before `start` where there is any.
    vectors : the job vectors. An event on a job without one at its time is not held out.
    spec : window, length and actions.
    start, end : aware datetimes; events with `start <= t < end` are held out.
    minimum : int. Examples with fewer input activities are left out, default 3.

    Returns
    -------
    ProxyExamples
        In the order of `events`: by member, then time.

    Raises
    ------
    InvalidInput
        A time has no zone, the range is empty or `minimum` is below 1.
    """
    first, last = microseconds(start, "start"), microseconds(end, "end")
    if first >= last:
        raise InvalidInput(f"examples: `start` should be before `end`. Received: {start}, {end}")
    if minimum < 1:
        raise InvalidInput(f"examples: `minimum` should be 1 or more. Received: {minimum}")
    event = np.flatnonzero((events.time >= first) & (events.time < last))
    held_out_rows = vectors.rows(events.job_ids, events.job[event, None], events.time[event])[:, 0]
    known = held_out_rows != vectors.pad_row
    event, held_out_rows = event[known], held_out_rows[known]

    sequences = make_sequences(
        events,
        events.member_ids.take(_member_of(events, event)),
        events.time[event],
        spec=spec,
        vectors=vectors,
    )
    examples = ProxyExamples(
        sequences=sequences,
        held_out_rows=held_out_rows,
        positive=np.isin(events.action[event], spec.positive_ids),
        sampled=np.zeros(len(event), dtype=bool),
        event=event,
    )
    return examples.take(sequences.count >= minimum)


def with_same_day_negatives(
    examples: ProxyExamples, events: ActivityEvents, vectors: ItemVectors, *, seed: int
) -> ProxyExamples:
    """Add one drawn negative to each positive.

    Held-out activities are mostly positive (86% in the sample data), and what a member dismissed
    is close to what the member wanted: telling the two apart says little about which jobs suit
    whom. So each positive comes a second time with the same input and another job, drawn
    uniformly from the distinct jobs that anyone acted on during the same UTC day. Left out are
    jobs that the member acted on before that day's end (so the input and the held-out job among
    them) and jobs without a vector at that time. Nobody said that a drawn job is unwanted: it is
    marked `sampled`, and training weighs it less than a real DISMISS.

    This is the simplest version: uniform, so popular jobs are rarer among the negatives than
    among the positives, and a model can gain from knowing what is popular. A positive that
    meets no allowed job in 64 draws gets no negative.

    Parameters
    ----------
    examples : from `make_examples`.
    events, vectors : what the examples were made from.
    seed : int. Of the draws; the same seed gives the same jobs.

    Returns
    -------
    ProxyExamples
        `examples`, followed by the negatives in the order of their positives.
    """
    jobs = len(events.job_ids)
    day = events.time // MICROSECONDS_PER_DAY
    pool = np.unique(day * jobs + events.job)
    pool_day, pool_job = np.divmod(pool, jobs) if jobs else (pool, pool)

    pair = _member_of(events, np.arange(len(events))).astype(np.int64) * jobs + events.job
    # Stable: the first of equal pairs is the oldest, since events are in order of time.
    pairs, oldest = np.unique(pair, return_index=True)
    first_day = day[oldest]

    generator = np.random.default_rng(seed)
    source = np.flatnonzero(examples.positive)
    event = examples.event[source]
    member = _member_of(events, event).astype(np.int64)
    low = np.searchsorted(pool_day, day[event], side="left")
    high = np.searchsorted(pool_day, day[event], side="right")
    drawn_rows = np.full(len(source), vectors.pad_row, dtype=np.int32)
    open_draws = np.arange(len(source))
    for _ in range(DRAWS):
        if not len(open_draws):
            break
        held_out = event[open_draws]
        job = pool_job[generator.integers(low[open_draws], high[open_draws])]
        candidate = member[open_draws] * jobs + job
        found = np.minimum(np.searchsorted(pairs, candidate), len(pairs) - 1)
        acted_on = (pairs[found] == candidate) & (first_day[found] <= day[held_out])
        rows = vectors.rows(events.job_ids, job[:, None], events.time[held_out])[:, 0]
        drawn_rows[open_draws] = np.where(acted_on, vectors.pad_row, rows)
        open_draws = open_draws[drawn_rows[open_draws] == vectors.pad_row]

    accepted = drawn_rows != vectors.pad_row
    count = int(accepted.sum())
    both = examples.take(np.concatenate([np.arange(len(examples)), source[accepted]]))
    return replace(
        both,
        held_out_rows=np.concatenate([examples.held_out_rows, drawn_rows[accepted]]),
        positive=np.concatenate([examples.positive, np.zeros(count, dtype=bool)]),
        sampled=np.concatenate([examples.sampled, np.ones(count, dtype=bool)]),
    )


def microseconds(moment: datetime, name: str) -> int:
    """Return an aware datetime as microseconds since the epoch.

    Raises
    ------
    InvalidInput
        The datetime has no zone; `name` says which one.
    """
    if moment.tzinfo is None:
        raise InvalidInput(
            f"examples: `{name}` should have a time zone. Received: {moment.isoformat()} (naive)"
        )
    return to_us(moment)


def _member_of(events: ActivityEvents, event: np.ndarray) -> np.ndarray:
    """Return the position in `member_ids` of the member of each event."""
    return np.searchsorted(events.member_start, event, side="right") - 1
