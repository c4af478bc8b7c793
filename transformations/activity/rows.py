"""The rows that each view publishes, as Arrow record batches; `definitions.schemas` declares them.

Without Feast, so that a process which computes rows need not import it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from activity_embeddings.transformations import names
from activity_embeddings.transformations.activity.sequences import Sequences
from activity_embeddings.transformations.arrow import TIMESTAMP, vector_column


def sequence_batch(
    members: pa.Array,
    sequences: Sequences,
    created: np.ndarray,
    domain: names.DomainNames = names.JOBS,
) -> pa.RecordBatch:
    """Return the rows of the sequence view.

    Parameters
    ----------
    members
        N ids.
    sequences
        N sequences of the same members.
    created
        int64 [n]; microseconds at which each value became available.
    domain
        Names the columns.
    """
    filled = sequences.action > 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(sequences.count)]), pa.int32())
    empty = sequences.count == 0
    columns = {
        domain.member_id: members,
        domain.activity_item_ids: pa.ListArray.from_arrays(
            offsets, sequences.item_ids.take(pa.array(sequences.item[filled]))
        ),
        names.ACTIVITY_ACTIONS: pa.ListArray.from_arrays(
            offsets, pa.array(sequences.action[filled], pa.int32())
        ),
        names.ACTIVITY_TIMES: pa.ListArray.from_arrays(
            offsets, pa.array(sequences.time[filled], pa.int64())
        ),
        names.ACTIVITY_EVENT_IDS: _as_text(sequences.event, sequences.event_ids, filled, offsets),
        names.ACTIVITY_COUNT: pa.array(sequences.count, pa.int64()),
        names.LAST_ACTIVITY_AT: pa.array(sequences.time[:, -1], mask=empty).cast(TIMESTAMP),
    }
    if domain.session_id is not None:
        columns[names.ACTIVITY_SESSION_IDS] = _as_text(
            sequences.session, sequences.session_ids, filled, offsets
        )
    return pa.RecordBatch.from_pydict({**columns, **_stamps(sequences, created)})


def _as_text(
    codes: np.ndarray | None, ids: pa.Array | None, filled: np.ndarray, offsets: pa.Array
) -> pa.ListArray:
    """Return the ids of events or sessions as n lists of text, all empty where there are none.

    Parameters
    ----------
    codes
        int32 [n, L]; position in `ids`, -1 for an event without one.
    ids
        The ids.
    filled
        bool [n, L]; False for PAD.
    offsets
        int32 [n + 1]; of the lists.
    """
    if codes is None or ids is None:
        return pa.ListArray.from_arrays(
            pa.array(np.zeros(len(offsets)), pa.int32()), pa.array([], pa.string())
        )
    code = codes[filled]
    texts = ids.take(pa.array(code, mask=code < 0)).cast(pa.string())
    # The online stores' lists have no nulls; no id is empty.
    return pa.ListArray.from_arrays(offsets, texts.fill_null(""))


def embedding_batch(
    members: pa.Array,
    sequences: Sequences,
    created: np.ndarray,
    vectors: Mapping[str, np.ndarray],
    version: str,
    member_id: str = names.MEMBER_ID,
) -> pa.RecordBatch:
    """Return the rows of an embedding view.

    Parameters
    ----------
    members
        N ids.
    sequences
        N sequences of the same members.
    created
        int64 [n]; microseconds at which each value became available.
    vectors
        float32 [n, d] by output name.
    version
        Of the model.
    member_id
        Name of the column of ids.
    """
    columns: dict[str, pa.Array] = {member_id: members}
    for output, values in vectors.items():
        columns[output] = vector_column(values)
    columns[names.MODEL_VERSION] = pa.repeat(pa.scalar(version, pa.string()), len(members))
    return pa.RecordBatch.from_pydict({**columns, **_stamps(sequences, created)})


def _stamps(sequences: Sequences, created: np.ndarray) -> dict[str, pa.Array]:
    return {
        names.EVENT_TIMESTAMP: pa.array(sequences.as_of, pa.int64()).cast(TIMESTAMP),
        names.CREATED_TIMESTAMP: pa.array(created, pa.int64()).cast(TIMESTAMP),
    }
