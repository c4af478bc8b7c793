"""Hashes of the data that something was made from."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

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
    ids = str(events.member_ids.to_pylist()).encode()
    item_ids = str(vectors.item_ids.to_pylist()).encode()
    return {
        "events": len(events),
        "members": int((np.diff(events.member_start) > 0).sum()),
        "items": len(vectors.item_ids),
        "events_fingerprint": _hash(
            ids, events.member_start, events.item, events.action, events.time, *sessions
        ),
        "item_vectors_fingerprint": _hash(item_ids, vectors.start, vectors.time, vectors.matrix),
    }


def _hash(*parts: bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
