"""Hashes of the data that something was made from."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from activity_embeddings.training.examples.history import ActivityHistory


def fingerprints(history: ActivityHistory, end: int | None = None) -> dict[str, Any]:
    """Return counts and hashes of the data, so that a manifest says what a model was made from.

    Parameters
    ----------
    history
        Events and vectors.
    end
        Events from then on do not count, microseconds since the epoch; None: all do.
    """
    events, vectors = history.events, history.vectors
    if end is not None:
        events = events.where(events.time < end)
    sessions: list[bytes | np.ndarray] = []
    if events.session is not None and events.session_ids is not None:
        sessions = [str(events.session_ids.to_pylist()).encode(), events.session]
    # Members without an event before `end` are no part of what was learned.
    members = np.flatnonzero(np.diff(events.member_start) > 0)
    ids = str(events.member_ids.take(pa.array(members)).to_pylist()).encode()
    start = np.append(events.member_start[members], len(events))
    item_ids = str(vectors.item_ids.to_pylist()).encode()
    return {
        "events": len(events),
        "members": len(members),
        "items": len(vectors.item_ids),
        "events_fingerprint": fingerprint(
            ids, start, events.item, events.action, events.time, *sessions
        ),
        "item_vectors_fingerprint": fingerprint(
            item_ids, vectors.start, vectors.time, vectors.matrix
        ),
    }


def fingerprint(*parts: bytes | np.ndarray) -> str:
    """Return a hash of bytes and arrays, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
