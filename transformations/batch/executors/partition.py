"""What is computed apart from everything else: the rows of some members.

    Computation (what all partitions share) + Partition (some members and their events) -> Rows

A partition reads no store and writes none, so that its rows are the same wherever it is computed.
Nothing here imports Feast or pandas: a worker starts in half a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from activity_embeddings.transformations.activity.events import ActivityEvents
from activity_embeddings.transformations.activity.item_vectors import ItemVectors
from activity_embeddings.transformations.activity.kinds import count_of_kinds
from activity_embeddings.transformations.activity.member_range import MemberRange
from activity_embeddings.transformations.activity.rows import embedding_batch, sequence_batch
from activity_embeddings.transformations.activity.sequences import make_sequences, members_active
from activity_embeddings.transformations.arrow import require_one_type, sorted_union
from activity_embeddings.transformations.batch.seconds import Seconds
from activity_embeddings.transformations.contract.activity_model import ModelDescription
from activity_embeddings.transformations.inference.embedder import Embedder
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.spec import ActivitySpec

MEMBERS_AT_ONCE = 32_768
"""Members held in memory together: their sequences and every model's vectors."""


@dataclass(frozen=True)
class Computation:
    """What all partitions of a run are computed with.

    Attributes
    ----------
    spec
        Window, length, actions.
    vectors
        Item vectors up to the last cut-off.
    models
        All models of the run, by name.
    publishing_delay
        Microseconds from a cut-off to when its values are available.
    batch_size
        Members a model call.
    domain
        Names the columns.
    """

    spec: ActivitySpec
    vectors: ItemVectors
    models: Mapping[str, ModelDescription]
    publishing_delay: int
    batch_size: int
    domain: DomainNames


@dataclass(frozen=True)
class CutOff:
    """What is asked as of one time.

    Attributes
    ----------
    as_of
        The time, microseconds since the epoch.
    models
        Names of the models to run.
    sequences
        Whether rows of sequences are asked for.
    after
        Earlier times: whoever has events in the window before one of them, as they are known now,
        and none in that of this one, gets an explicit empty row.
    """

    as_of: int
    models: tuple[str, ...]
    sequences: bool
    after: tuple[int, ...]


@dataclass(frozen=True)
class Partition:
    """Some members, and all that their rows are made from.

    Attributes
    ----------
    members
        Which.
    events
        Theirs.
    cutoff
        What is asked of them.
    were_active
        Those of them who had activity in the snapshots before, ascending: they get an explicit
        empty row like those of `CutOff.after`.
    """

    members: MemberRange
    events: ActivityEvents
    cutoff: CutOff
    were_active: pa.Array

    def __post_init__(self) -> None:
        require_one_type(self.were_active, self.events.member_ids)

    def divided(self, rows: int) -> Iterator[Partition]:
        """Yield partitions of the same members, ascending, of at most some number of rows.

        Each is a copy that shares no memory with this one.
        """
        ids = sorted_union(self.events.member_ids, self.were_active)
        starts = range(rows, len(ids), rows)
        firsts = [self.members.first, *(ids[start] for start in starts)]
        for i, first in enumerate(firsts):
            members = MemberRange(first, firsts[i + 1] if i + 1 < len(firsts) else self.members.end)
            part = ids.slice(i * rows, rows)
            events = self.events.within(part[0], part[-1]) if len(part) else self.events
            yield Partition(members, events.compact(), self.cutoff, members.of(self.were_active))


@dataclass(frozen=True)
class Rows:
    """The rows of some members as of one time.

    Attributes
    ----------
    as_of
        The time.
    last
        Whether no member has rows that are still to come.
    members
        How many members have a row.
    silent
        How many of these had activity before, and have no event in the window.
    positions, unknown
        Activities in their sequences, and those that were left out as their item has no vector.
    of_kinds
        Of each kind of activity, where there are several, the activities in the window, and those
        of them on an item without a vector.
    item_id
        An id of an item that members acted on, None where they acted on none.
    sequences
        The rows of the sequence view; None where there are none, or none are asked for.
    embeddings
        The rows of each model's view by the name of the model; empty where there are none.
    seconds
        What they took.
    """

    as_of: int
    last: bool
    members: int
    silent: int
    positions: int
    unknown: int
    item_id: Any
    sequences: pa.RecordBatch | None
    embeddings: Mapping[str, pa.RecordBatch]
    seconds: Seconds
    of_kinds: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class Worker:
    """Computes partitions; a model is loaded when a partition asks for it first, and stays.

    Parameters
    ----------
    computation
        What all partitions share.
    threads
        Of a model call; None: as many as this process may use cores.
    """

    def __init__(self, computation: Computation, *, threads: int | None = None) -> None:
        self._computation, self._threads = computation, threads
        self._embedders: dict[tuple[str, ...], Embedder] = {}

    def rows(self, partition: Partition) -> Iterator[Rows]:
        """Yield the rows of a partition, by ascending members.

        Raises
        ------
        InvalidInput
            A model cannot be loaded, or gave a value that is not finite.
        """
        spec, events, cutoff = self._computation.spec, partition.events, partition.cutoff
        members = sorted_union(
            members_active(events, cutoff.as_of, spec),
            partition.were_active,
            *(members_active(events, as_of, spec) for as_of in cutoff.after),
        )
        for start in range(0, max(1, len(members)), MEMBERS_AT_ONCE):
            part = members.slice(start, MEMBERS_AT_ONCE)
            last = partition.members.end is None and start + len(part) == len(members)
            yield self._rows_of(cutoff, part, events, last=last)

    def _rows_of(
        self, cutoff: CutOff, members: pa.Array, events: ActivityEvents, *, last: bool
    ) -> Rows:
        """Return the rows of some members."""
        computation, seconds = self._computation, Seconds()
        if not len(members):
            return Rows(cutoff.as_of, last, 0, 0, 0, 0, None, None, {}, seconds)
        # Of these members alone: what makes sequences goes through all that it is given.
        events = events.within(members[0], members[-1])
        moments = np.full(len(members), cutoff.as_of, dtype=np.int64)
        created = moments + computation.publishing_delay
        with seconds.timed("sequences"):
            sequences = make_sequences(
                events, members, moments, spec=computation.spec, vectors=computation.vectors
            )
        embedder = self._embedder(cutoff.models, seconds)
        with seconds.timed("models"):
            embedded = embedder(sequences, computation.vectors)
        return Rows(
            as_of=cutoff.as_of,
            last=last,
            members=len(members),
            silent=int(np.count_nonzero(sequences.count + sequences.unknown == 0)),
            positions=int(sequences.count.sum()),
            unknown=int(sequences.unknown.sum()),
            item_id=events.item_ids[0].as_py() if len(events.item_ids) else None,
            sequences=sequence_batch(members, sequences, created, computation.domain)
            if cutoff.sequences
            else None,
            embeddings={
                name: embedding_batch(
                    members,
                    sequences,
                    created,
                    embedded[name],
                    computation.models[name].version,
                    computation.domain.member_id,
                )
                for name in cutoff.models
            },
            seconds=seconds,
            of_kinds=count_of_kinds(
                events, cutoff.as_of, spec=computation.spec, vectors=computation.vectors
            ),
        )

    def _embedder(self, models: tuple[str, ...], seconds: Seconds) -> Embedder:
        """Return the embedder of some models, loading it at first use."""
        if models not in self._embedders:
            with seconds.timed("load models"):
                self._embedders[models] = Embedder(
                    [self._computation.models[name] for name in models],
                    batch_size=self._computation.batch_size,
                    threads=self._threads,
                )
        return self._embedders[models]
