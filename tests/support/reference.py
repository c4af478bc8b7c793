"""The slow, obvious implementation of sequences and formulas that the fast ones are held to.

Plain Python over dicts and lists; shares no code with `transformations`.
"""

import math

US_PER_DAY = 86_400_000_000


def vector_as_of(vectors, item_id, as_of):
    """Return the newest vector of an item with time <= as_of, or None.

    `vectors` is a list of (item_id, time_us, vector).
    """
    newest = None
    for other, time, vector in vectors:
        if other == item_id and time <= as_of and (newest is None or time > newest[0]):
            newest = (time, vector)
    return None if newest is None else newest[1]


def joined(rows, key, label_time, ttl_us):
    """Return the newest row of a key with label_time - ttl_us <= time <= label_time, or None.

    `rows` is a list of (key, time_us, values); a `ttl_us` of 0 means no limit.
    """
    newest = None
    for other, time, values in rows:
        if other != key or time > label_time or (ttl_us and time < label_time - ttl_us):
            continue
        if newest is None or time > newest[0]:
            newest = (time, values)
    return None if newest is None else newest[1]


def sequence(events, vectors, member_id, as_of, *, window_us, length):
    """Return ([(item_id, action, time_us)], unknown) of one member, oldest first, not padded.

    `events` is a list of dicts with member_id, item_id, action, time and perhaps event_id.
    """
    seen = []
    for event in events:
        if (
            event["member_id"] == member_id
            and as_of - window_us <= event["time"] < as_of
            and event not in seen
        ):
            seen.append(event)
    order = ["PAD", "APPLY", "SAVE", "DISMISS"]
    seen.sort(
        key=lambda e: (e["time"], e.get("event_id", 0), e["job_id"], order.index(e["action"]))
    )
    known = [e for e in seen if vector_as_of(vectors, e["job_id"], as_of) is not None]
    kept = known[-length:]
    return [(e["job_id"], e["action"], e["time"]) for e in kept], len(seen) - len(known)


def kept_of_kinds(newest_last, kind_of, keep, length):
    """Return those of a member's events that have a place, one event after the other.

    `newest_last` are the known events of the window, `kind_of` says the kind of each, and `keep`
    is a dict of the places that are kept for a kind.
    """
    free = dict(keep)
    shared = length - sum(keep.values())
    kept = []
    for event in reversed(newest_last):
        if free.get(kind_of(event), 0):
            free[kind_of(event)] -= 1
        elif shared:
            shared -= 1
        else:
            continue
        kept.insert(0, event)
    return kept


def mean_of(vectors, dimension):
    """Plain mean; the zero vector of nothing."""
    if not vectors:
        return [0.0] * dimension
    return [math.fsum(v[d] for v in vectors) / len(vectors) for d in range(dimension)]


def decayed_of(vectors, dimension, r):
    """Sum of (1-r)/(1-r^n) * r^(n-i) * v_i for i = 1..n, oldest first."""
    n = len(vectors)
    if n == 0:
        return [0.0] * dimension
    weights = [(1 - r) / (1 - r**n) * r ** (n - i) for i in range(1, n + 1)]
    return [
        math.fsum(w * v[d] for w, v in zip(weights, vectors, strict=True)) for d in range(dimension)
    ]


def sessions_of(events, gap):
    """Return, for each event, the positions of the events of its session.

    `events` are (member, time, session id or None), by member and time. An event without an id
    belongs to the session of the member's event before it, if that is `gap` older at most.
    """
    labels = []
    for position, (member, time, session) in enumerate(events):
        if session is not None:
            labels.append((member, "session", session))
        elif (
            position and events[position - 1][0] == member and time - events[position - 1][1] <= gap
        ):
            labels.append(labels[-1])
        else:
            labels.append((member, "begun at", position))
    return [[i for i, other in enumerate(labels) if other == label] for label in labels]
