"""What an evaluation is made from: events, item vectors, postings and how they are published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from activity_embeddings.training.examples.history import ActivityHistory
from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.kinds import ids_with_kind
from activity_embeddings.transformations.arrow import codes_of, single_chunk, time_column
from activity_embeddings.transformations.errors import InvalidInput
from activity_embeddings.transformations.names import DomainNames
from activity_embeddings.transformations.spec import ItemVectorSpec
from activity_embeddings.transformations.times import Schedule

TRUE_MEMBERS = "members.parquet"
TRUE_ITEMS = "items.parquet"


@dataclass(frozen=True, eq=False)
class Data:
    """What is evaluated on.

    Parameters
    ----------
    history
        All events from the first on, and item vectors.
    vector_spec
        Which vectors.
    postings
        `job_id`, as the history has the ids, `event_timestamp` and the columns of categories.
    category_columns
        Their names.
    schedule
        Schedule of the daily run.
    description
        One line for people.
    simulated
        Whether members are made up.
    truth
        Folder with `members.parquet` and `items.parquet` of a simulated market, or None.
    truth_names
        Names of the domain, whose join keys are the ids' columns there.
    """

    history: ActivityHistory
    vector_spec: ItemVectorSpec
    postings: pa.Table
    category_columns: tuple[str, ...]
    schedule: Schedule
    description: str
    simulated: bool = False
    truth: Path | None = None
    truth_names: DomainNames = names.JOBS

    def __post_init__(self) -> None:
        if self.truth is None:
            return
        known = {
            TRUE_MEMBERS: (self.truth_names.member_id, self.history.events.member_ids.type),
            TRUE_ITEMS: (self.truth_names.item_id, self.history.vectors.item_ids.type),
        }
        for file, (column, of_type) in known.items():
            path = self.truth / file
            received = "no such file"
            if path.is_file():
                schema = pq.read_schema(path)
                found = schema.field(column).type if column in schema.names else "none"
                # Beside other kinds, ids of items are texts that say their kind.
                says_kind = file == TRUE_ITEMS and self.history.spec.kinds and found != "none"
                if found == of_type or says_kind:
                    continue
                received = f"{column} {found}"
            raise InvalidInput(
                f"truth: expected {path}, as a simulated market writes it, with the {column} "
                f"{of_type} of the events. Received: {received}"
            )


def posted_at(data: Data) -> np.ndarray:
    """Return when each item was posted first, or else when it first had a vector, int64 [J]."""
    vectors = data.history.vectors
    posted = vectors.known_at(vectors.item_ids).copy()
    ids = single_chunk(data.postings, names.ITEM_ID).cast(vectors.item_ids.type)
    item = codes_of(ids, vectors.item_ids)
    time = time_column(data.postings, names.EVENT_TIMESTAMP, names.JOBS.postings_view)
    np.minimum.at(posted, item[item >= 0], time[item >= 0])
    return posted


def true_item_vectors(data: Data) -> np.ndarray | None:
    """Return the true vectors of the items of a simulated market, float32 [J, D], or None."""
    if data.truth is None:
        return None
    truth = pq.read_table(data.truth / TRUE_ITEMS)
    items = data.history.vectors.item_ids
    vectors = np.stack(single_chunk(truth, "vector").to_numpy(zero_copy_only=False))
    matrix = np.zeros((len(items), vectors.shape[1]), np.float32)
    ids = single_chunk(truth, data.truth_names.item_id)
    kinds = data.history.spec.kinds
    if kinds:
        ids = ids_with_kind(kinds[0].name, ids).cast(items.type)
    place = codes_of(ids, items)
    matrix[place[place >= 0]] = vectors[place >= 0]
    return matrix
